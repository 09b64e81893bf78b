//! Every bad setting, by flag and by variable, is refused in one line before anything is read.
#![cfg(feature = "demo")]

mod support;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use orphan_sweeper::settings::{EventOptions, RawSettings, Setting, Settings};
use proptest::prelude::*;
use support::World;
use support::program::{Ended, Environment, Tripwire, files};

/// The one line that was printed on standard error; nothing was printed elsewhere.
#[track_caller]
fn complaint(ended: &Ended, about: &str) -> String {
    assert_eq!(ended.code, Some(2), "{about}: {ended:?}");
    assert_eq!(ended.stdout, "", "{about}");
    let line = ended
        .stderr
        .strip_suffix('\n')
        .unwrap_or_else(|| panic!("{about}: {ended:?}"));
    assert!(!line.contains(['\n', '\r', '\u{1b}']), "{about}: {line:?}");
    line.strip_prefix("orphan-sweeper: ")
        .unwrap_or_else(|| panic!("{about}: {line}"))
        .to_owned()
}

/// A world in which nothing may be touched.
struct Untouched {
    world: World,
    tripwire: Tripwire,
}

impl Untouched {
    async fn new() -> Self {
        let world = World::new().await;
        world.put("images/a.png", 100);
        Self {
            world,
            tripwire: Tripwire::new(),
        }
    }

    fn environment(&self) -> Environment {
        Environment::of(&self.world).with(&[("DATABASE_URL", &self.tripwire.url())])
    }

    #[track_caller]
    fn check(&self) {
        self.tripwire.assert_untouched();
        assert_eq!(self.world.server.requests(), []);
        assert_eq!(files(self.world.ledger.path()).len(), 0);
    }
}

/// What is set, to what, and words of the complaint: what is wrong, what would be right.
const BAD: &[(Setting, &str, &[&str])] = &[
    (
        Setting::Bucket,
        "s3://x",
        &["\"s3://x\"", "not the name of a bucket", "--prefix"],
    ),
    (Setting::Bucket, "a/b", &["\"a/b\"", "--prefix"]),
    (
        Setting::Bucket,
        "a b",
        &["\"a b\"", "not the name of a bucket"],
    ),
    (
        Setting::Bucket,
        "x--x-s3",
        &["directory buckets list in no order"],
    ),
    (Setting::Include, "a[", &["\"a[\"", "not a glob"]),
    (Setting::Include, "{a,b", &["\"{a,b\"", "not a glob"]),
    (Setting::Exclude, "a[", &["\"a[\"", "not a glob"]),
    (Setting::Exclude, "a{b,c", &["\"a{b,c\"", "not a glob"]),
    (Setting::Exclude, "x{", &["\"x{\"", "not a glob"]),
    (
        Setting::ReferenceForm,
        "uri",
        &["\"uri\"", "`key`", "`url`"],
    ),
    (Setting::ReferenceForm, "URL", &["\"URL\"", "`url`"]),
    (
        Setting::ReferenceHost,
        "cdn.example.com",
        &["without --reference-form url"],
    ),
    (
        Setting::ForeignHost,
        "cdn.example.com",
        &["without --reference-form url"],
    ),
    (
        Setting::ReferenceHost,
        "https://cdn.example.com",
        &["not a host", "cdn.example.com"],
    ),
    (Setting::ForeignHost, "//cdn.example.com", &["not a host"]),
    (Setting::ForeignHost, "cdn.example.com?x=1", &["not a host"]),
    (
        Setting::DatabaseUrl,
        "hunter2",
        &["postgres://user:password@host:5432/database"],
    ),
    (
        Setting::DatabaseUrl,
        "hunter2:x@h/d",
        &["postgres://user:password@host:5432/database"],
    ),
    (
        Setting::DatabaseUrl,
        "mysql://u:hunter2@h/d",
        &["postgres://user:password@host:5432/database"],
    ),
    (
        Setting::DatabaseUrl,
        "postgres://u:hunter2@h:x/d",
        &["postgres://user:password@host:5432/database"],
    ),
    (
        Setting::DatabaseUrl,
        "postgres://u:p@h/d?sslmode=hunter2",
        &["postgres://user:password@host:5432/database"],
    ),
    (
        Setting::DatabaseSecretArn,
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:app",
        &["DATABASE_URL", "exactly one"],
    ),
    (
        Setting::DatabaseCa,
        "/no/such/file.pem",
        &["\"/no/such/file.pem\"", "cannot be read"],
    ),
    (Setting::DatabaseCa, "/", &["\"/\"", "not a file"]),
    (Setting::MinAge, "24", &["\"24\"", "`24h`", "`7d`"]),
    (Setting::MinAge, "-1h", &["\"-1h\"", "`24h`"]),
    (Setting::MinAge, "a day", &["\"a day\"", "`24h`"]),
    (
        Setting::MinAge,
        "59m",
        &["59m", "shorter than 1h", "--allow-short-min-age"],
    ),
    (
        Setting::MinAge,
        "59m\n59s",
        &["shorter than 1h", "--allow-short-min-age"],
    ),
    (Setting::MinAge, "200y", &["longer than 100 years"]),
    (Setting::MaxDelete, "-1", &["\"-1\"", "whole number"]),
    (Setting::MaxDelete, "1.5", &["\"1.5\"", "whole number"]),
    (Setting::MaxDelete, "1e3", &["\"1e3\"", "whole number"]),
    (Setting::MaxDelete, "1_000", &["\"1_000\"", "whole number"]),
    (
        Setting::MaxDelete,
        "99999999999999999999",
        &["whole number"],
    ),
    (Setting::MaxOrphanPercent, "101", &["101", "from 0 to 100"]),
    (Setting::MaxOrphanPercent, "-1", &["-1", "from 0 to 100"]),
    (Setting::MaxOrphanPercent, "NaN", &["NaN", "from 0 to 100"]),
    (
        Setting::MaxOrphanPercent,
        "50%",
        &["\"50%\"", "from 0 to 100"],
    ),
    (
        Setting::MaxDanglingPercent,
        "100.1",
        &["100.1", "from 0 to 100"],
    ),
    (
        Setting::MaxDanglingPercent,
        "inf",
        &["inf", "from 0 to 100"],
    ),
    (
        Setting::MaxReferencedDropPercent,
        "101",
        &["101", "from 0 to 100"],
    ),
    (Setting::MaxReplicaLag, "5", &["\"5\"", "a time like"]),
    (
        Setting::NotAReference,
        "avatar",
        &["\"avatar\"", "public.users.avatar"],
    ),
    (
        Setting::NotAReference,
        "public..avatar",
        &["public.users.avatar"],
    ),
    (Setting::Concurrency, "0", &["\"0\"", "from 1 to 256"]),
    (Setting::Concurrency, "257", &["\"257\"", "from 1 to 256"]),
    (Setting::Concurrency, "x", &["\"x\"", "from 1 to 256"]),
    (
        Setting::Report,
        "ftp://x",
        &["\"ftp://x\"", "s3://bucket/prefix"],
    ),
    (
        Setting::Report,
        "s3://",
        &["\"s3://\"", "s3://bucket/prefix"],
    ),
    (Setting::Report, "s3:///ledger", &["s3://bucket/prefix"]),
    (
        Setting::Report,
        "s3:/ledgers/x",
        &["\"s3:/ledgers/x\"", "s3://bucket/prefix"],
    ),
    (Setting::Report, "s3://led gers", &["s3://bucket/prefix"]),
    (
        Setting::Report,
        "s3://pictures",
        &["what is swept lie one inside of the other"],
    ),
    (
        Setting::Report,
        "s3://pictures/ledger",
        &["what is swept lie one inside of the other"],
    ),
];

#[tokio::test]
async fn a_bad_value_is_refused_by_the_name_of_its_flag_or_variable() {
    let untouched = Untouched::new().await;
    for (setting, value, words) in BAD {
        let (flag, variable) = setting.names();
        let by_flag = untouched
            .environment()
            .cli(&["sweep", &format!("{flag}={value}")])
            .await;
        let by_variable = untouched
            .environment()
            .with(&[(variable, value)])
            .cli(&["sweep"])
            .await;
        for (ended, name) in [(by_flag, flag), (by_variable, variable)] {
            let about = format!("{name}={value}");
            let line = complaint(&ended, &about);
            assert!(line.starts_with(&format!("{name}: ")), "{about}: {line}");
            for word in *words {
                assert!(line.contains(word), "{about}: {line}");
            }
            assert!(!line.contains("hunter2"), "{about}: {line}");
        }
    }
    untouched.check();
}

#[tokio::test]
async fn a_switch_takes_no_value_and_its_variable_only_true_and_false() {
    let untouched = Untouched::new().await;
    for setting in [
        Setting::DryRun,
        Setting::AllowShortMinAge,
        Setting::AllowNewerOrphans,
        Setting::AllowOldTransactions,
        Setting::AllowReplica,
        Setting::AllowUnversioned,
        Setting::AllowUnconditional,
        Setting::AbortUploads,
    ] {
        let (flag, variable) = setting.names();
        for arguments in [
            vec![format!("{flag}=false")],
            vec![format!("{flag}=true")],
            vec![flag.to_owned(), "false".to_owned()],
            vec![flag[..flag.len() - 1].to_owned()],
            vec![flag.replacen("--", "--no-", 1)],
        ] {
            let ended = untouched
                .environment()
                .cli(&[&["sweep".to_owned()], &arguments[..]].concat())
                .await;
            assert_eq!(ended.code, Some(2), "{arguments:?}: {ended:?}");
            assert_eq!(ended.stdout, "", "{arguments:?}");
        }
        for value in [
            "yes", "1", "TRUE", "True", "on", "0", " true", "true ", "\"true\"",
        ] {
            let environment = untouched.environment().with(&[(variable, value)]);
            let line = complaint(&environment.cli(&["sweep"]).await, value);
            assert!(line.starts_with(&format!("{variable}: ")), "{line}");
            assert!(line.contains("neither `true` nor `false`"), "{line}");
        }
    }
    untouched.check();
}

#[tokio::test]
async fn a_variable_that_is_not_known_or_not_text_is_refused() {
    let untouched = Untouched::new().await;
    for name in [
        "SWEEPER_DRYRUN",
        "SWEEPER_DRY-RUN",
        "SWEEPER_",
        "SWEEPER_DRY_RUN ",
        "sweeper_dry_run",
        "Sweeper_Dry_Run",
        "SWEEPER_DATABASE_URL",
    ] {
        for value in ["true", ""] {
            let environment = untouched.environment().with(&[(name, value)]);
            let line = complaint(&environment.cli(&["sweep"]).await, name);
            assert!(line.starts_with(&format!("{name}: ")), "{line}");
            assert!(line.contains("not a setting"), "{line}");
        }
    }
    for name in ["SWEEPER_DRY_RUN", "SWEEPER_BUCKET", "DATABASE_URL"] {
        let mut environment = untouched.environment();
        environment.set(name, OsString::from_vec(b"tr\xffue".to_vec()));
        let line = complaint(&environment.cli(&["sweep"]).await, name);
        assert!(line.starts_with(&format!("{name}: ")), "{line}");
        assert!(line.contains("not UTF-8"), "{line}");
    }
    let not_text = OsString::from_vec(b"--bucket=p\xff".to_vec());
    let ended = untouched
        .environment()
        .cli(&[OsString::from("sweep"), not_text])
        .await;
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(2), ""),
        "{ended:?}"
    );
    untouched.check();
}

#[tokio::test]
async fn a_flag_is_never_empty_where_that_would_mean_something_else() {
    let untouched = Untouched::new().await;
    for setting in [
        Setting::Bucket,
        Setting::Include,
        Setting::Exclude,
        Setting::References,
        Setting::ReferenceForm,
        Setting::ReferenceHost,
        Setting::ForeignHost,
        Setting::DatabaseUrl,
        Setting::MinAge,
        Setting::MaxDelete,
        Setting::MaxOrphanPercent,
        Setting::MaxDanglingPercent,
        Setting::MaxReferencedDropPercent,
        Setting::MaxReplicaLag,
        Setting::AllowUnreferencedFolder,
        Setting::NotAReference,
        Setting::Report,
        Setting::Concurrency,
    ] {
        let flag = setting.names().0;
        let ended = untouched.environment().cli(&["sweep", flag, ""]).await;
        let line = complaint(&ended, flag);
        assert!(line.starts_with(&format!("{flag}: ")), "{line}");
    }
    for variable in ["SWEEPER_INCLUDE", "SWEEPER_EXCLUDE"] {
        let environment = untouched.environment().with(&[(variable, " , ")]);
        let line = complaint(&environment.cli(&["sweep"]).await, variable);
        assert!(line.starts_with(&format!("{variable}: ")), "{line}");
    }
    untouched.check();
}

#[tokio::test]
async fn the_database_is_given_in_exactly_one_way() {
    const ARN: &str = "arn:aws:secretsmanager:us-east-1:123456789012:secret:app";
    let untouched = Untouched::new().await;
    let none = || untouched.environment().without("DATABASE_URL");
    let by_url =
        |url: &str| none().with(&[("DATABASE_URL", url), ("SWEEPER_DATABASE_IAM", "true")]);
    for (environment, named) in [
        (
            none().with(&[("DATABASE_SECRET_ARN", "app/db")]),
            "DATABASE_SECRET_ARN: not the ARN",
        ),
        (
            none().with(&[
                ("DATABASE_SECRET_ARN", ARN),
                ("SWEEPER_DATABASE_IAM", "true"),
            ]),
            "DATABASE_SECRET_ARN: sign-in by IAM needs no secret",
        ),
        (
            none().with(&[("SWEEPER_DATABASE_IAM", "true")]),
            "--database-url: required",
        ),
        (
            by_url("postgres://db.example.com/d"),
            "DATABASE_URL: names no user",
        ),
        (
            by_url("postgres://u:hunter2@db.example.com/d"),
            "DATABASE_URL: holds a password",
        ),
        (
            by_url("postgres://u@db.example.com/d?sslmode=require"),
            "sslmode=verify-full",
        ),
        (by_url("postgres://u@localhost/d"), "sslmode=verify-full"),
        (
            untouched
                .environment()
                .with(&[("SWEEPER_DATABASE_IAM", "yes")]),
            "SWEEPER_DATABASE_IAM: \"yes\" is neither",
        ),
    ] {
        let line = complaint(&environment.cli(&["sweep"]).await, named);
        assert!(line.contains(named), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
    untouched.check();
}

#[tokio::test]
async fn what_is_required_is_asked_for_by_flag_and_variable() {
    let untouched = Untouched::new().await;
    for setting in [Setting::Bucket, Setting::DatabaseUrl] {
        let (flag, variable) = setting.names();
        for environment in [
            untouched.environment().without(variable),
            untouched.environment().with(&[(variable, "")]),
        ] {
            let line = complaint(&environment.cli(&["sweep"]).await, flag);
            assert!(line.starts_with(&format!("{flag}: required")), "{line}");
            assert!(line.contains(variable), "{line}");
        }
    }
    // Without a home there is no state folder, either.
    let homeless = untouched
        .environment()
        .without("SWEEPER_REPORT")
        .without("HOME");
    let line = complaint(&homeless.cli(&["sweep"]).await, "HOME");
    assert!(
        line.contains("--report") && line.contains("SWEEPER_REPORT"),
        "{line}"
    );
    untouched.check();
}

#[tokio::test]
async fn the_report_must_lie_outside_of_what_is_swept() {
    let untouched = Untouched::new().await;
    for (prefix, report, inside) in [
        ("images", "s3://pictures/images", true),
        ("images", "s3://pictures/images/ledger", true),
        ("images/", "s3://pictures/images/", true),
        ("images", "s3://pictures/images2/", false),
        ("images2", "s3://pictures/images/", false),
        ("images", "s3://pictures/ledger", false),
        ("images", "s3://other/images", false),
        // The ledger's own folder is `runs/` below the report.
        ("runs", "s3://pictures", true),
        ("ledger/runs/0198", "s3://pictures/ledger", true),
        ("ledger/runs2", "s3://pictures/ledger", false),
        ("ledger", "s3://pictures", false),
    ] {
        let made = settings(&[
            (Setting::Bucket, "pictures"),
            (Setting::DatabaseUrl, "postgres://u:p@localhost/d"),
            (Setting::Prefix, prefix),
            (Setting::Report, report),
        ]);
        assert_eq!(made.is_err(), inside, "{prefix} {report} {made:?}");
        if inside {
            let ended = untouched
                .environment()
                .with(&[("SWEEPER_REPORT", report)])
                .cli(&["sweep", "--prefix", prefix])
                .await;
            let line = complaint(&ended, report);
            assert!(line.starts_with("SWEEPER_REPORT: "), "{line}");
        }
    }
    untouched.check();
}

fn settings(given: &[(Setting, &str)]) -> Result<Settings, String> {
    let mut raw = RawSettings::default();
    for (setting, text) in given {
        raw.flag(*setting, [(*text).to_owned()]);
    }
    Settings::new(&raw, None).map_err(|error| error.to_string())
}

#[test]
fn what_contradicts_itself_is_refused() {
    let base = [
        (Setting::Bucket, "pictures"),
        (Setting::DatabaseUrl, "postgres://u:p@localhost/d"),
        (Setting::Report, "/tmp/ledger"),
    ];
    let with = |more: &[(Setting, &str)]| settings(&[&base[..], more].concat());
    let error = with(&[
        (Setting::ReferenceForm, "url"),
        (Setting::ReferencePrefix, "images/"),
    ]);
    assert!(error.unwrap_err().starts_with("--reference-prefix: "));
    for host in ["cdn.example.com", "localhost:9000", "localhost:9000/bucket"] {
        with(&[
            (Setting::ReferenceForm, "url"),
            (Setting::ReferenceHost, host),
        ])
        .unwrap();
    }
    for (age, short) in [
        ("59m", true),
        ("0s", true),
        ("1h", false),
        ("7d", false),
        ("100y", false),
    ] {
        let allow: &[_] = if short {
            &[(Setting::AllowShortMinAge, "true")]
        } else {
            &[]
        };
        with(&[&[(Setting::MinAge, age)], allow].concat()).unwrap();
    }
}

#[test]
fn commas_part_the_globs_of_a_variable_but_not_within_braces() {
    let raw = RawSettings::from_environment(
        [
            ("SWEEPER_BUCKET", "pictures"),
            ("DATABASE_URL", "postgres://u:p@localhost/d"),
            ("SWEEPER_REPORT", "/tmp/ledger"),
            ("SWEEPER_INCLUDE", "*.{png,jpg} , raw/**, ,*.x{1,{2,3}}"),
            (
                "SWEEPER_EXCLUDE",
                r"keep/{a,b}/*,a\{b.png,[{]x.png,hold.png",
            ),
        ]
        .map(|(name, value)| (name.into(), value.into())),
    )
    .unwrap();
    let scope = Settings::new(&raw, None).unwrap().scope;
    assert_eq!(scope.include(), ["*.{png,jpg}", "raw/**", "*.x{1,{2,3}}"]);
    assert_eq!(
        scope.exclude(),
        ["keep/{a,b}/*", r"a\{b.png", "[{]x.png", "hold.png"]
    );
    assert!(!scope.contains("raw/hold.png") && !scope.contains("raw/a{b.png"));
    assert!(scope.contains("a.jpg") && scope.contains("a.x3") && scope.contains("raw/b"));
    assert!(!scope.contains("keep/b/a.jpg"));
}

/// Settings that an event tightens.
fn configured() -> impl Strategy<Value = Settings> {
    (
        prop_oneof![Just(""), Just("images"), Just("images/2026/")],
        1_u64..1_000,
        proptest::option::of(0_u64..100),
        0_u32..=100,
        any::<bool>(),
    )
        .prop_map(|(prefix, hours, max_delete, percent, dry_run)| {
            let (age, percent) = (format!("{hours}h"), percent.to_string());
            let max_delete = max_delete.map(|count| count.to_string());
            let mut given = vec![
                (Setting::Bucket, "pictures"),
                (Setting::DatabaseUrl, "postgres://u:p@localhost/d"),
                (Setting::Report, "/tmp/ledger"),
                (Setting::Prefix, prefix),
                (Setting::MinAge, &age),
                (Setting::MaxOrphanPercent, &percent),
            ];
            given.extend(
                max_delete
                    .as_deref()
                    .map(|count| (Setting::MaxDelete, count)),
            );
            given.extend(dry_run.then_some((Setting::DryRun, "true")));
            settings(&given).unwrap()
        })
}

fn event() -> impl Strategy<Value = EventOptions> {
    (
        proptest::option::of(any::<bool>()),
        proptest::option::of(prop_oneof![
            Just(""),
            Just("image"),
            Just("images"),
            Just("images2"),
            Just("images/2026"),
            Just("images/2026/11/")
        ]),
        proptest::option::of(0_u64..2_000),
        proptest::option::of(0_u64..200),
        proptest::option::of(-10.0..110.0),
    )
        .prop_map(
            |(dry_run, prefix, hours, max_delete, max_orphan_percent)| EventOptions {
                dry_run,
                prefix: prefix.map(str::to_owned),
                min_age: hours.map(|hours| format!("{hours}h")),
                max_delete,
                max_orphan_percent,
            },
        )
}

proptest! {
    #[test]
    fn an_event_never_loosens_anything(configured in configured(), event in event()) {
        let Ok(tight) = configured.tighten(&event) else {
            return Ok(());
        };
        prop_assert!(tight.scope.prefix().extends(configured.scope.prefix()));
        prop_assert!(tight.min_age >= configured.min_age);
        prop_assert!(tight.max_delete.unwrap_or(u64::MAX) <= configured.max_delete.unwrap_or(u64::MAX));
        prop_assert!(tight.limits.max_orphan_percent <= configured.limits.max_orphan_percent);
        prop_assert!(tight.limits.max_orphan_percent >= 0.0);
        prop_assert!(tight.allowed.dry_run >= configured.allowed.dry_run);
        // What it asked for is what it gets.
        prop_assert!(event.dry_run.is_none_or(|dry_run| tight.allowed.dry_run == dry_run));
        prop_assert!(event.max_delete.is_none_or(|count| tight.max_delete == Some(count)));
        // And the rest stays as it was.
        let mut rest = tight.clone();
        rest.scope = configured.scope.clone();
        rest.min_age = configured.min_age;
        rest.max_delete = configured.max_delete;
        rest.limits.max_orphan_percent = configured.limits.max_orphan_percent;
        rest.allowed.dry_run = configured.allowed.dry_run;
        prop_assert_eq!(format!("{rest:?}"), format!("{configured:?}"));
    }

    #[test]
    fn an_event_that_asks_for_no_more_than_is_configured_is_taken(configured in configured()) {
        let event = EventOptions {
            dry_run: Some(true),
            prefix: Some(configured.scope.prefix().as_str().to_owned()),
            min_age: Some(format!("{}s", configured.min_age.as_secs())),
            max_delete: Some(configured.max_delete.unwrap_or(7)),
            max_orphan_percent: Some(configured.limits.max_orphan_percent),
        };
        prop_assert!(configured.tighten(&event).is_ok());
    }
}

#[test]
fn the_prefix_of_an_event_lies_below_the_configured_one() {
    let tighten = |prefix: &str| {
        let configured = settings(&[
            (Setting::Bucket, "pictures"),
            (Setting::DatabaseUrl, "postgres://u:p@localhost/d"),
            (Setting::Report, "/tmp/ledger"),
            (Setting::Prefix, "images"),
        ])
        .unwrap();
        let event = EventOptions {
            prefix: Some(prefix.to_owned()),
            ..EventOptions::default()
        };
        configured
            .tighten(&event)
            .map(|tight| tight.scope.prefix().as_str().to_owned())
            .ok()
    };
    assert_eq!(tighten("images").as_deref(), Some("images/"));
    assert_eq!(tighten("images/2026").as_deref(), Some("images/2026/"));
    for elsewhere in ["images2", "image", "", "/", "/images", "other/images"] {
        assert_eq!(tighten(elsewhere), None, "{elsewhere}");
    }
}
