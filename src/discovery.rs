//! Discovery: orphans that some other column names, which the references query forgets.
//!
//! Some would-be orphans are looked for in every column that may hold a name, in any spelling:
//! the key itself, its last part alone, behind a slash, a host or another folder,
//! percent-encoded, inside of JSON. What is found and means no other object is a *mention*, and
//! a mention blocks the sweep: rather one question too many than one image too few.

mod needles;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error as StdError;
use std::fmt;

use thiserror::Error;

use crate::hands::{Current, Look};
use crate::key::{ObjectKey, escape};
use crate::names::{NameRules, shown};
use needles::{Finder, Needles, readings};

/// The database could not be searched.
#[derive(Debug, Error)]
#[error("the database could not be searched for forgotten references")]
pub struct DiscoveryError(#[source] pub Box<dyn StdError + Send + Sync>);

/// A column by its name, `schema.table.column`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ColumnName(String);

impl ColumnName {
    /// The column of these names.
    #[must_use]
    pub fn new(schema: &str, table: &str, column: &str) -> Self {
        Self(format!("{schema}.{table}.{column}"))
    }

    /// The column that a person means.
    ///
    /// # Errors
    /// Not three names.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.split('.').count() < 3 || text.split('.').any(str::is_empty) {
            return Err(format!(
                "{text:?} is not a column; write it like public.users.avatar, with schema and table"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// One text.
    Text,
    /// Many.
    Array,
    /// Texts somewhere inside.
    Json,
}

/// How far the references query reads what is around a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBy {
    /// Not even its table.
    Nothing,
    /// Not its table, unless a function of the query does, which could not be asked.
    Unknown,
    /// Its table, whether or not this column.
    Table,
    /// This very column.
    Column,
}

/// A column that may hold names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: ColumnName,
    /// Its table as SQL writes it.
    pub sql_table: String,
    /// Its name as SQL writes it.
    pub sql_column: String,
    /// What it holds.
    pub kind: ColumnKind,
    /// Whether the role may read it.
    pub readable: bool,
    /// What the query reads of it.
    pub read_by: ReadBy,
}

/// A piece of text that holds what was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The text, as far as no space or quote parts it.
    pub text: String,
    /// Whether it is all that the row holds there.
    pub is_whole: bool,
}

/// How the reading of one column ended.
#[derive(Debug)]
pub enum Searched {
    /// All of it was read.
    Done,
    /// It was not, or not to its end, for this reason.
    Skipped(String),
}

/// A database that can be searched.
pub trait Columns {
    /// Every column that may hold names, those that the role may not read among them.
    fn columns(&mut self) -> impl Future<Output = Result<Vec<Column>, DiscoveryError>> + Send;

    /// Reads the column and shows each text in it; those that hold none of the endings, if
    /// there are any, may be left out.
    fn search(
        &mut self,
        column: &Column,
        endings: &[String],
        show: &mut (dyn FnMut(&str) + Send),
    ) -> impl Future<Output = Result<Searched, DiscoveryError>> + Send;

    /// Which of these texts the references query yields; `None` when it took too long.
    fn yielded(
        &mut self,
        texts: &[&str],
    ) -> impl Future<Output = Result<Option<HashSet<String>>, DiscoveryError>> + Send;
}

/// What a mention has to do with the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forgotten {
    /// The query does not read the column.
    Column,
    /// The query does not read the table, unless a function of it does.
    Perhaps,
    /// It reads the table, but not this column or not these rows.
    InTable,
    /// It reads the column, but not these rows.
    Rows,
    /// It yields the text, which is not the key.
    Spelling,
    /// It yields the key itself, since the snapshot was taken.
    Since,
}

/// A column that names orphans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The column.
    pub column: ColumnName,
    /// The sampled orphans that it names.
    pub keys: Vec<ObjectKey>,
    /// How many orphans were looked for.
    pub sampled: usize,
    /// How the first of them is written there, fit to be shown.
    pub written: String,
    /// What that has to do with the query.
    pub forgotten: Forgotten,
    /// What to add to the query, where that can be told.
    pub remedy: Option<String>,
}

impl fmt::Display for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            column,
            keys,
            sampled,
            written,
            ..
        } = self;
        let are = if keys.len() == 1 { "is" } else { "are" };
        write!(
            f,
            "{} of {sampled} sampled orphans {are} named in {column}, ",
            keys.len()
        )?;
        match self.forgotten {
            Forgotten::Column => write!(f, "which the references query does not read"),
            Forgotten::Perhaps => write!(
                f,
                "which the references query does not read, unless a function of it does, which failed or took too long to be asked"
            ),
            Forgotten::InTable => write!(
                f,
                "a column or rows that the references query leaves out of a table that it reads"
            ),
            Forgotten::Rows => write!(
                f,
                "in rows that the references query leaves out (soft-deleted ones, perhaps)"
            ),
            Forgotten::Spelling => write!(
                f,
                "which the references query reads, but in another spelling"
            ),
            Forgotten::Since => write!(
                f,
                "in rows whose names the snapshot of this run does not hold so: they were committed since (the next run sees them), or the query yields them in another case (citext in a UNION)"
            ),
        }?;
        write!(f, " (as {written} for {})", keys[0])?;
        match &self.remedy {
            Some(remedy) => write!(f, "; add to the query: {}", escape(remedy)),
            None => Ok(()),
        }
    }
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// How many orphans were looked for.
    pub sampled: usize,
    /// How many columns were searched.
    pub searched: usize,
    /// The columns that name orphans.
    pub hits: Vec<Hit>,
    /// The columns that were not searched, and why.
    pub skipped: Vec<(ColumnName, String)>,
    /// Whether one of them may be read all the same: the search did not come to its end.
    pub unfinished: bool,
}

impl Discovery {
    /// The orphans that are named anywhere.
    #[must_use]
    pub fn named(&self) -> Vec<ObjectKey> {
        let keys: BTreeSet<&ObjectKey> = self.hits.iter().flat_map(|hit| &hit.keys).collect();
        keys.into_iter().cloned().collect()
    }

    /// Logs what was not searched; what was found is for the guards.
    pub(crate) fn log(&self) {
        tracing::info!(
            orphans_sampled = self.sampled,
            columns_searched = self.searched,
            columns_naming_orphans = self.hits.len(),
            "searched the database for forgotten references"
        );
        if let Some(skipped) = self.not_searched() {
            if self.unfinished {
                tracing::warn!(
                    skipped,
                    "did not come to the end of the search for forgotten references; the next run searches again"
                );
            } else {
                tracing::info!(skipped, "could not search everything");
            }
        }
    }

    /// The columns that were not searched, in one line.
    #[must_use]
    pub fn not_searched(&self) -> Option<String> {
        const NAMED: usize = 5;
        if self.skipped.is_empty() {
            return None;
        }
        let named: Vec<String> = self
            .skipped
            .iter()
            .take(NAMED)
            .map(|(column, why)| format!("{column} ({})", escape(why)))
            .collect();
        let more = match self.skipped.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{} columns were not searched: {}{more}",
            self.skipped.len(),
            named.join(", ")
        ))
    }
}

/// Objects that are looked at, at most, to tell what a text means.
const MAX_LOOKS: usize = 300;

/// Searches the columns for these orphans.
///
/// # Errors
/// The database fails; what merely may not be read, or takes too long, is skipped and said so.
pub async fn discover(
    sample: &[ObjectKey],
    rules: &NameRules,
    not_references: &[ColumnName],
    database: &mut impl Columns,
    look: &impl Look,
) -> Result<Discovery, DiscoveryError> {
    let needles = Needles::of(sample);
    let mut discovery = Discovery {
        sampled: sample.len(),
        ..Discovery::default()
    };
    let finder = Finder::of(&needles)?;
    if needles.is_empty() {
        return Ok(discovery);
    }
    let mut lens = Lens {
        rules,
        look,
        present: HashMap::new(),
    };
    for column in database.columns().await? {
        if not_references.contains(&column.name) {
            continue;
        }
        if !column.readable {
            let why = "the role may not read it".to_owned();
            discovery.skipped.push((column.name, why));
            continue;
        }
        let mut tokens = Vec::new();
        let mut show = |text: &str| finder.tokens(text, &mut tokens);
        match database.search(&column, &finder.endings, &mut show).await? {
            Searched::Done => discovery.searched += 1,
            // What was found until then counts.
            Searched::Skipped(why) => {
                discovery.skipped.push((column.name.clone(), why));
                discovery.unfinished = true;
            }
        }
        let matched: Vec<(&ObjectKey, &Token)> = tokens
            .iter()
            .flat_map(|token| needles.named_by(token).map(move |key| (key, token)))
            .collect();
        if matched.is_empty() {
            continue;
        }
        let yielded = if column.read_by == ReadBy::Nothing {
            HashSet::new()
        } else {
            let texts: Vec<&str> = tokens.iter().map(|token| token.text.as_str()).collect();
            database.yielded(&texts).await?.unwrap_or_default()
        };
        let mut found: Vec<(&ObjectKey, &Token)> = Vec::new();
        for (key, token) in matched {
            let is_yielded = yielded.contains(&token.text);
            if !lens.means_another(key, token, is_yielded).await {
                found.push((key, token));
            }
        }
        if let [(_, first), ..] = found[..] {
            let keys: BTreeSet<&ObjectKey> = found.iter().map(|(key, _)| *key).collect();
            let mut of_query = found
                .iter()
                .filter(|(_, token)| yielded.contains(&token.text))
                .peekable();
            let is_of_query = of_query.peek().is_some();
            let forgotten = match column.read_by {
                _ if is_of_query && of_query.all(|(key, token)| names(rules, key, &token.text)) => {
                    Forgotten::Since
                }
                _ if is_of_query => Forgotten::Spelling,
                ReadBy::Nothing => Forgotten::Column,
                ReadBy::Unknown => Forgotten::Perhaps,
                ReadBy::Table => Forgotten::InTable,
                ReadBy::Column => Forgotten::Rows,
            };
            let remedy = match forgotten {
                Forgotten::Column => remedy(&column, &found, rules),
                _ => None,
            };
            // The text must be that of the key which is shown with it.
            let shown_with = keys.first().and_then(|key| {
                let of_key = found.iter().find(|(found, _)| found == key);
                of_key.map(|(_, token)| *token)
            });
            discovery.hits.push(Hit {
                column: column.name.clone(),
                sampled: sample.len(),
                written: shown(&shown_with.unwrap_or(first).text),
                keys: keys.into_iter().cloned().collect(),
                forgotten,
                remedy,
            });
        }
    }
    Ok(discovery)
}

/// Tells what a text means by what the bucket holds.
struct Lens<'run, L> {
    rules: &'run NameRules,
    look: &'run L,
    present: HashMap<String, bool>,
}

impl<L: Look> Lens<'_, L> {
    /// Whether the text plainly means another object, one that exists.
    ///
    /// A text that the query yields means what the rules make of it. Of any other it is not
    /// known to which folder it belongs, so only a path of more than one part means anything.
    async fn means_another(&mut self, key: &ObjectKey, token: &Token, is_yielded: bool) -> bool {
        let mut meant: BTreeSet<String> = BTreeSet::new();
        if is_yielded {
            let widened = self.rules.widen(&token.text).unwrap_or_default();
            meant.extend(
                widened
                    .iter()
                    .map(|reference| reference.key.as_str().to_owned()),
            );
        }
        for reading in readings(&token.text) {
            let bare = reading.split(['?', '#']).next().unwrap_or_default();
            let path = match bare.split_once("://") {
                Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
                None => bare.trim_start_matches('/'),
            };
            if path.contains('/') {
                meant.insert(path.to_owned());
            }
            // Path-style, with the bucket in front.
            if let Some((_, behind)) = path.split_once('/').filter(|_| bare.contains("://"))
                && behind.contains('/')
            {
                meant.insert(behind.to_owned());
            }
        }
        if meant.contains(key.as_str()) {
            return false;
        }
        for candidate in meant {
            if self.is_present(&candidate).await {
                return true;
            }
        }
        false
    }

    async fn is_present(&mut self, key: &str) -> bool {
        if let Some(&present) = self.present.get(key) {
            return present;
        }
        // What cannot be looked at explains nothing.
        if self.present.len() >= MAX_LOOKS || key.is_empty() {
            return false;
        }
        let present = matches!(
            self.look.look(&ObjectKey::new(key)).await,
            Ok(Current::Present { .. })
        );
        self.present.insert(key.to_owned(), present);
        present
    }
}

/// Whether the rules read the text as a name of the key.
fn names(rules: &NameRules, key: &ObjectKey, text: &str) -> bool {
    rules
        .widen(text)
        .is_ok_and(|references| references.iter().any(|reference| reference.key == *key))
}

/// The part of a query that yields what was found, where all of it is written in one way.
fn remedy(column: &Column, found: &[(&ObjectKey, &Token)], rules: &NameRules) -> Option<String> {
    let value = match column.kind {
        ColumnKind::Text if found.iter().all(|(_, token)| token.is_whole) => {
            column.sql_column.clone()
        }
        ColumnKind::Array => format!("unnest({})", column.sql_column),
        ColumnKind::Text | ColumnKind::Json => return None,
    };
    let all = |way: &dyn Fn(&ObjectKey, &str) -> bool| {
        found.iter().all(|(key, token)| way(key, &token.text))
    };
    let expression = if all(&|key, text| names(rules, key, text)) {
        value
    } else if all(&|key, text| names(rules, key, text.trim_start_matches('/'))) {
        format!("ltrim({value}, '/')")
    } else {
        // The same folder in front of each.
        let (key, token) = found.first()?;
        let folder = rules.name_of(key)?.strip_suffix(token.text.as_str())?;
        if folder.is_empty() || !rules.keep_order() {
            return None;
        }
        if !all(&|key, text| names(rules, key, &format!("{folder}{text}"))) {
            return None;
        }
        format!("'{}' || {value}", folder.replace('\'', "''"))
    };
    Some(format!(
        "UNION ALL SELECT {expression} FROM {}",
        column.sql_table
    ))
}
