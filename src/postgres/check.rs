//! The fresh check: the primary is asked once more, in a transaction begun for the question.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::time::{Instant, timeout};

use super::ask::explain;
use super::connect::{Isolation, execute};
use super::literal::literal;
use super::query::Collation;
use super::relations::Relations;
use super::snapshot::{copy_out, identify};
use super::unseen::refuse_foreign_or_temporary;
use super::{Database, DatabaseError, ReferencesQuery, statement};
use crate::chain::chain;
use crate::hands::{CheckError, FreshCheck, Identity};
use crate::key::ObjectKey;
use crate::mention::{Keys, KnownTexts, Needle, Strictness, needles};
use crate::names::{NameError, NameRules, shown};
use crate::references::ReferenceKind;

/// Names of one statement. Asked for many more at once, the planner thinks it cheaper to read
/// the whole table than to look each one up (on a million rows for 8,000 names: 130 ms on
/// three cores, against 30 ms on one).
const NAMES_AT_ONCE: usize = 1_000;

/// So many other keys that the names of one may mean are remembered: a name with a new query each
/// time may stand in many rows.
const MOST_READINGS: usize = 32;

/// For each key, where a row names it, what else such a name may mean.
type Readings = Vec<Option<Vec<ObjectKey>>>;

/// How often a question is put that locks tables anew each time.
const MOST_QUESTIONS: usize = 4;

/// How the database is asked about some keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// By an index on the names.
    Index(Collation),
    /// All names are read once more and held against the keys: names that are widened, or
    /// that no index serves.
    Reread,
}

/// Asks the primary which keys its rows name now.
#[derive(Debug)]
pub struct PrimaryCheck {
    database: Database,
    query: ReferencesQuery,
    rules: NameRules,
    identity: Identity,
    /// What was read when the run began: by the snapshot, or else by the first question.
    relations: OnceLock<Relations>,
    /// Decided by the first question.
    method: OnceLock<Method>,
    /// The names that need not be held against the keys any more.
    known: OnceLock<KnownTexts>,
}

impl PrimaryCheck {
    /// A check against the database that the snapshot was taken of; on any other it fails,
    /// as it does when a primary has become a standby. (The guards let nothing be swept by
    /// the word of a standby.)
    #[must_use]
    pub fn new(
        database: Database,
        query: ReferencesQuery,
        rules: NameRules,
        identity: Identity,
    ) -> Self {
        Self {
            database,
            query,
            rules,
            identity,
            relations: OnceLock::new(),
            method: OnceLock::new(),
            known: OnceLock::new(),
        }
    }

    /// The same check, which fails where not all of these are read any more.
    #[must_use]
    pub fn of_relations(self, relations: Relations) -> Self {
        Self {
            relations: relations.into(),
            ..self
        }
    }

    /// A transaction on the database that the snapshot was taken of.
    async fn begin(&self) -> Result<PgConnection, DatabaseError> {
        // A connection of its own each time: it costs little beside a window of batches, and
        // none lies idle for a firewall or a pooler to drop.
        let mut connection = self.database.connect().await?;
        self.begin_in(&mut connection, None).await?;
        Ok(connection)
    }

    /// The same on this connection, which waits no longer than this for a table.
    async fn begin_in(
        &self,
        connection: &mut PgConnection,
        longest_wait: Option<Duration>,
    ) -> Result<(), DatabaseError> {
        self.database
            .begin(connection, Isolation::ReadCommitted)
            .await?;
        if let Some(longest) = longest_wait {
            let text = format!("SET LOCAL lock_timeout = {}", longest.as_millis());
            execute(connection, text)
                .await
                .map_err(statement("begin a transaction"))?;
        }
        let identity = identify(connection).await?;
        if identity != self.identity {
            return Err(DatabaseError::Database(format!(
                "is another one than at the start: {} then, {identity} now",
                self.identity
            )));
        }
        // Locks the tables before the statement that reads them takes its snapshot, so that a
        // truncation in between cannot hide rows.
        self.query.validate(connection).await?;
        Ok(())
    }

    /// With mentions, a name that only mentions a key names it.
    async fn ask(
        &self,
        keys: &[&ObjectKey],
        with_mentions: bool,
    ) -> Result<Readings, DatabaseError> {
        let asked = Instant::now();
        let mut connection = self.begin().await?;
        let named = self.settled(&mut connection, keys, with_mentions).await?;
        // The answer gets older meanwhile, though not for longer than it took.
        end(connection, ENDING.max(asked.elapsed())).await?;
        Ok(named)
    }

    /// Gives up where the tables are not to be had at once: a snapshot that is open still may hold
    /// up who waits for them before us.
    async fn method_for(&self, keys: &[&ObjectKey]) -> Result<Method, DatabaseError> {
        let mut connection = self.database.connect().await?;
        self.begin_in(&mut connection, Some(LONGEST_WAIT)).await?;
        let method = self.method(&mut connection, keys).await?;
        end(connection, ENDING).await?;
        Ok(method)
    }

    /// The answer of a question that locked no table anew. What a function of the query reads
    /// is locked only by its statement, whose snapshot is older than the lock: a truncation
    /// in between would have hidden rows. Asked once more, with all its locks held, it sees
    /// them.
    async fn settled(
        &self,
        connection: &mut PgConnection,
        keys: &[&ObjectKey],
        with_mentions: bool,
    ) -> Result<Readings, DatabaseError> {
        // Only what functions read needs a second question.
        let mut locked = Relations::planned(connection, &self.query).await?;
        let before = self.relations.get_or_init(|| locked.clone());
        locked.hold_all_of(before, connection).await?;
        for _ in 0..MOST_QUESTIONS {
            let named = self.question(connection, keys, with_mentions).await?;
            let before = locked;
            locked = Relations::locked(connection, &self.query).await?;
            if locked == before {
                refuse_foreign_or_temporary(connection).await?;
                return Ok(named);
            }
        }
        Err(DatabaseError::Query(format!(
            "read other tables each of {MOST_QUESTIONS} times that it was asked, so that its answer cannot be trusted"
        )))
    }

    async fn question(
        &self,
        connection: &mut PgConnection,
        keys: &[&ObjectKey],
        with_mentions: bool,
    ) -> Result<Readings, DatabaseError> {
        match self.method(connection, keys).await? {
            Method::Index(collation) => self.by_index(connection, keys, collation).await,
            Method::Reread => {
                let known = self.known.get().filter(|_| with_mentions);
                self.by_reading_all(connection, keys, known).await
            }
        }
    }

    /// The name that means the key; `None` where no name can, as with a NUL, which
    /// PostgreSQL's text cannot hold.
    fn name_of<'key>(&self, key: &'key ObjectKey) -> Option<&'key str> {
        self.rules.name_of(key).filter(|name| !name.contains('\0'))
    }

    /// The method that the planner thinks cheapest, decided once.
    async fn method(
        &self,
        connection: &mut PgConnection,
        keys: &[&ObjectKey],
    ) -> Result<Method, DatabaseError> {
        if let Some(&method) = self.method.get() {
            return Ok(method);
        }
        let mut best = (Method::Reread, f64::INFINITY);
        if self.rules.keep_order() {
            best.1 = cost(connection, &self.query.select()).await?;
            let names: Vec<String> = keys
                .iter()
                .filter_map(|key| self.name_of(key))
                .take(NAMES_AT_ONCE)
                .map(literal)
                .collect();
            let array = format!("ARRAY[{}]::text[]", names.join(","));
            for collation in [Collation::Default, Collation::C] {
                let cost = cost(connection, &self.query.select_any(&array, collation)).await?;
                if cost < best.1 {
                    best = (Method::Index(collation), cost);
                }
            }
        }
        tracing::debug!(method = ?best.0, "chose how to ask the database again");
        // Of several questions at once the first one's answer stands.
        Ok(*self.method.get_or_init(|| best.0))
    }

    async fn by_index(
        &self,
        connection: &mut PgConnection,
        keys: &[&ObjectKey],
        collation: Collation,
    ) -> Result<Readings, DatabaseError> {
        let names: Vec<Option<&str>> = keys.iter().map(|key| self.name_of(key)).collect();
        let asked: Vec<&str> = names.iter().flatten().copied().collect();
        let mut found = HashSet::new();
        for asked in asked.chunks(NAMES_AT_ONCE) {
            let rows = sqlx::query(AssertSqlSafe(self.query.select_any("$1", collation)))
                .bind(asked)
                .persistent(false)
                .fetch_all(&mut *connection)
                .await
                .map_err(statement("ask for the references again"))?;
            for row in rows {
                let name = row.try_get::<String, _>(0);
                found.insert(name.map_err(statement("read the references again"))?);
            }
        }
        Ok(names
            .into_iter()
            .map(|name| found.contains(name?).then(Vec::new))
            .collect())
    }

    async fn by_reading_all(
        &self,
        connection: &mut PgConnection,
        keys: &[&ObjectKey],
        known: Option<&KnownTexts>,
    ) -> Result<Readings, DatabaseError> {
        let mut mentioned = Mentioned::default();
        if known.is_some() {
            mentioned.add(keys, &self.rules.prefix);
        }
        let places: HashMap<&str, usize> = keys
            .iter()
            .enumerate()
            .map(|(place, key)| (key.as_str(), place))
            .collect();
        let mut named = vec![None; keys.len()];
        let names = copy_out(connection, self.query.copy()).await?;
        let mut names = std::pin::pin!(names);
        while let Some(name) = names.try_next().await? {
            let Some(name) = name else { continue };
            let unreadable = |what: String| DatabaseError::Copy(what);
            let name = std::str::from_utf8(&name)
                .map_err(|_| unreadable("a name is not UTF-8".to_owned()))?;
            let meant = self
                .rules
                .widen(name)
                .map_err(|error| unreadable(error.to_string()))?;
            if known.is_some_and(|known| !known.contain(name)) {
                let places = mentioned.by(&self.rules, name);
                for place in places.map_err(|error| unreadable(error.to_string()))? {
                    named[place].get_or_insert_default();
                }
            }
            for one in &meant {
                if let Some(&place) = places.get(one.key.as_str()) {
                    let also: &mut Vec<ObjectKey> = named[place].get_or_insert_default();
                    // (What another name merely may mean tells nothing of what this one does.)
                    let others = meant.iter().filter(|_| one.kind == ReferenceKind::Primary);
                    let others = others.map(|other| &other.key);
                    let new = others.filter(|other| **other != one.key && !also.contains(other));
                    let room = MOST_READINGS.saturating_sub(also.len());
                    let new: Vec<ObjectKey> = new.take(room).cloned().collect();
                    also.extend(new);
                }
            }
        }
        Ok(named)
    }

    /// Whether an index serves the question, once it was asked.
    #[must_use]
    pub fn by_index_of(&self) -> Option<&'static str> {
        match *self.method.get()? {
            Method::Index(Collation::Default) => Some("the column's own collation"),
            Method::Index(Collation::C) => Some("collation \"C\""),
            Method::Reread => None,
        }
    }
}

impl PrimaryCheck {
    async fn answer(
        &self,
        keys: &[&ObjectKey],
        with_mentions: bool,
    ) -> Result<Readings, CheckError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(keys, with_mentions)
            .await
            .map_err(|error| CheckError(error.into()))
    }
}

/// The keys of one question, as they may be mentioned.
#[derive(Default)]
struct Mentioned {
    keys: Keys,
    places: HashMap<Needle, Vec<usize>>,
}

impl Mentioned {
    fn add(&mut self, keys: &[&ObjectKey], prefix: &str) {
        for (place, key) in keys.iter().enumerate() {
            self.keys.add(key, prefix);
            for needle in needles(key, prefix) {
                self.places.entry(needle).or_default().push(place);
            }
        }
    }

    fn by(&self, rules: &NameRules, name: &str) -> Result<Vec<usize>, NameError> {
        let (path, tail) = rules.parts(name);
        let mentioned = self
            .keys
            .mentioned_in(&format!("{path}{tail}"), Strictness::Strict)
            .map_err(|_| NameError::TooManyReadings(shown(name)))?;
        let places = |needle| self.places.get(&needle).into_iter().flatten().copied();
        Ok(mentioned.into_iter().flat_map(places).collect())
    }
}

impl FreshCheck for PrimaryCheck {
    fn asks_many_at_once(&self) -> bool {
        self.by_index_of().is_some()
    }

    fn beware_but_of(&self, known: KnownTexts) {
        // Of one run.
        let _ = self.known.set(known);
    }

    async fn reads_all_names(&self, keys: &[&ObjectKey]) -> bool {
        match timeout(LONGEST_CHOICE, self.method_for(keys)).await {
            Ok(Ok(method)) => method == Method::Reread,
            Ok(Err(error)) => {
                tracing::debug!(
                    error = chain(&error),
                    "could not choose yet how to ask the database again"
                );
                true
            }
            Err(_) => true,
        }
    }

    async fn referenced(&self, keys: &[&ObjectKey]) -> Result<Vec<bool>, CheckError> {
        let named = self.answer(keys, true).await?;
        Ok(named.into_iter().map(|named| named.is_some()).collect())
    }

    async fn readings(&self, keys: &[&ObjectKey]) -> Result<Readings, CheckError> {
        self.answer(keys, false).await
    }
}

/// So long an answer may wait for the end of its transaction in any case.
const ENDING: Duration = Duration::from_millis(100);

/// So long the choice of how to ask waits for a table.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// And so long for all together, should a connection die without a word.
const LONGEST_CHOICE: Duration = Duration::from_mins(10);

/// Ends a transaction that changed nothing, or leaves that to the server.
async fn end(mut connection: PgConnection, longest: Duration) -> Result<(), DatabaseError> {
    let ending = async {
        execute(&mut connection, "ROLLBACK".to_owned())
            .await
            .map_err(statement("end the transaction"))?;
        connection
            .close()
            .await
            .map_err(statement("close the connection"))
    };
    timeout(longest, ending).await.unwrap_or(Ok(()))
}

/// What the planner thinks that a statement costs, in its own unit.
async fn cost(connection: &mut PgConnection, select: &str) -> Result<f64, DatabaseError> {
    explain(connection, select)
        .await?
        .pointer("/Total Cost")
        .and_then(serde_json::Value::as_f64)
        .ok_or_else(|| DatabaseError::Database("gave a plan without a cost".to_owned()))
}
