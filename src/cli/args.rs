//! The flags, as clap reads them; [`crate::settings`] says what they mean.

use clap::{Parser, Subcommand};

use super::apply::ApplyArgs;
use super::flags::RunArgs;
use super::ranges::RangesArgs;
use super::report::ReportArgs;
use super::restore::RestoreArgs;

const EXAMPLES: &str = "\
Examples:
  Look before anything is deleted:
    orphan-sweeper doctor --bucket pictures --prefix images
    orphan-sweeper plan   --bucket pictures --prefix images --references 'SELECT name FROM images'
  Delete what is older than a week, at most a thousand objects:
    orphan-sweeper sweep  --bucket pictures --prefix images --min-age 7d --max-delete 1000

The database is read from DATABASE_URL (postgres://user:password@host/database).
Every flag has an environment variable, named with it; the flag wins.
Exit codes: 0 done, 1 failed, 2 bad usage, 3 refused by a guard, 4 incomplete, 130 interrupted.";

#[cfg(feature = "demo")]
const DEMO_EXAMPLES: &str = "\
Examples:
  See it once:
    orphan-sweeper demo
  Look around afterwards with clients of your own:
    orphan-sweeper demo --keep --serve";

/// Finds the objects of an S3 bucket that no PostgreSQL row names, and deletes them
#[derive(Parser)]
#[command(name = "orphan-sweeper", version, after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
    /// Log what happens to standard error (RUST_LOG chooses in detail)
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Find the orphans, ask the guards, and delete
    #[command(after_help = EXAMPLES)]
    Sweep(RunArgs),
    /// Find the orphans and write them down; delete nothing
    #[command(after_help = EXAMPLES)]
    Plan(RunArgs),
    /// Delete what a reviewed plan lists, each key judged again
    #[command(after_help = super::apply::EXAMPLES)]
    Apply(ApplyArgs),
    /// Undo a run on a bucket that keeps versions
    #[command(after_help = super::restore::EXAMPLES)]
    Restore(RestoreArgs),
    /// Show a run of the past: a page, a table of its orphans, or text
    #[command(after_help = super::report::EXAMPLES)]
    Report(ReportArgs),
    /// Check everything that a sweep needs, before the first one
    #[command(after_help = EXAMPLES)]
    Doctor(RunArgs),
    /// Cut the scope in ranges, for the many functions of a distributed run
    #[command(after_help = super::ranges::EXAMPLES)]
    Ranges(RangesArgs),
    /// Show the whole story on servers of its own: needs no bucket and no database
    #[cfg(feature = "demo")]
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
}

/// Flags of the demo.
#[cfg(feature = "demo")]
#[derive(clap::Args)]
pub(super) struct DemoArgs {
    /// Keep the demo's folder for looking around
    #[arg(long)]
    pub(super) keep: bool,
    /// Go on serving the bucket and the database until interrupted
    #[arg(long)]
    pub(super) serve: bool,
    /// About how many images the service takes in
    #[arg(long, value_name = "COUNT", default_value_t = 3_000)]
    pub(super) images: u32,
}

#[cfg(feature = "demo")]
impl From<DemoArgs> for crate::demo::Choices {
    fn from(args: DemoArgs) -> Self {
        Self {
            keep: args.keep,
            serve: args.serve,
            images: args.images,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::settings::{RawSettings, Setting};

    #[test]
    fn every_setting_is_a_flag_whose_help_names_its_variable() {
        let mut command = Arguments::command();
        command.build();
        for name in ["sweep", "plan", "doctor"] {
            let command = command.find_subcommand(name).unwrap();
            for setting in Setting::ALL {
                let (flag, variable) = setting.names();
                let argument = command
                    .get_arguments()
                    .find(|argument| argument.get_long() == flag.strip_prefix("--"))
                    .unwrap_or_else(|| panic!("{flag}"));
                let help = argument.get_help().unwrap().to_string();
                assert!(
                    help.contains(&format!("[env: {variable}")),
                    "{flag}: {help}"
                );
            }
        }
    }

    #[test]
    fn every_flag_reaches_the_settings() {
        let mut given = vec!["orphan-sweeper".to_owned(), "sweep".to_owned()];
        for setting in Setting::ALL {
            given.push(setting.names().0.to_owned());
            let switch = ["--allow", "--abort", "--dry-run", "--database-iam"]
                .iter()
                .any(|switch| setting.names().0.starts_with(switch))
                && setting != Setting::AllowUnreferencedFolder;
            given.extend((!switch).then(|| "x".to_owned()));
        }
        let Command::Sweep(args) = Arguments::try_parse_from(given).unwrap().command else {
            panic!("not a sweep")
        };
        let mut raw = RawSettings::default();
        args.fill(&mut raw);
        assert_eq!(raw.given().collect::<Vec<_>>(), Setting::ALL);
    }
}
