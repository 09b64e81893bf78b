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

/// What is set, to what, and the line that refuses it: what is wrong, what would be right.
const BAD: &[(Setting, &str, &str)] = &[
    (
        Setting::Bucket,
        "s3://x",
        "\"s3://x\" is not the name of a bucket; a folder in it is given with --prefix",
    ),
    (
        Setting::Bucket,
        "a/b",
        "\"a/b\" is not the name of a bucket; a folder in it is given with --prefix",
    ),
    (
        Setting::Bucket,
        "a b",
        "\"a b\" is not the name of a bucket; a folder in it is given with --prefix",
    ),
    (
        Setting::Bucket,
        "a\nb",
        "\"a\\nb\" is not the name of a bucket; a folder in it is given with --prefix",
    ),
    (
        Setting::Bucket,
        "  ",
        "empty; give a value, or leave it out",
    ),
    (
        Setting::Bucket,
        "x--x-s3",
        "\"x--x-s3\" is a directory bucket, which lists in no order and cannot be swept; give a general purpose bucket",
    ),
    (
        Setting::Prefix,
        "s3://pictures/images",
        "an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/",
    ),
    (
        Setting::After,
        "s3://pictures/images/a.png",
        "an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/",
    ),
    (
        Setting::UpTo,
        "https://cdn/images/a.png",
        "an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/",
    ),
    (
        Setting::Include,
        "a[",
        "\"a[\" is not a glob: error parsing glob 'a[': unclosed character class; missing ']'",
    ),
    (
        Setting::Include,
        "{a,b",
        "\"{a,b\" is not a glob: error parsing glob '{a,b': unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
    ),
    (
        Setting::Include,
        "\u{1b}[",
        "\"\\u{1b}[\" is not a glob: error parsing glob '\\u{1b}[': unclosed character class; missing ']'",
    ),
    (
        Setting::Exclude,
        "a[",
        "\"a[\" is not a glob: error parsing glob 'a[': unclosed character class; missing ']'",
    ),
    (
        Setting::Exclude,
        "a{b,c",
        "\"a{b,c\" is not a glob: error parsing glob 'a{b,c': unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
    ),
    (
        Setting::References,
        "  ",
        "empty; give a value, or leave it out",
    ),
    (
        Setting::ReferenceForm,
        "uri",
        "\"uri\" is neither `key` nor `url`",
    ),
    (
        Setting::ReferenceForm,
        "URL",
        "\"URL\" is neither `key` nor `url`",
    ),
    (
        Setting::ReferenceHost,
        "cdn.example.com",
        "has no meaning without --reference-form url: a key has no host",
    ),
    (
        Setting::ReferenceHost,
        "https://cdn.example.com",
        "\"https://cdn.example.com\" is not a host; write it like `cdn.example.com`, without scheme, query or user",
    ),
    (
        Setting::ForeignHost,
        "cdn.example.com",
        "has no meaning without --reference-form url: a key has no host",
    ),
    (
        Setting::ForeignHost,
        "//cdn.example.com",
        "\"//cdn.example.com\" is not a host; write it like `cdn.example.com`, without scheme, query or user",
    ),
    (
        Setting::ForeignHost,
        "cdn.example.com?x=1",
        "\"cdn.example.com?x=1\" is not a host; write it like `cdn.example.com`, without scheme, query or user",
    ),
    (
        Setting::ReferencePrefix,
        "https://cdn.example.com/?sig=hunter2",
        "an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/",
    ),
    (
        Setting::DatabaseUrl,
        "hunter2",
        "not an address like postgres://user:password@host:5432/database (relative URL without a base)",
    ),
    (
        Setting::DatabaseUrl,
        "hunter2:x@h/d",
        "not an address like postgres://user:password@host:5432/database (another scheme)",
    ),
    (
        Setting::DatabaseUrl,
        "mysql://u:hunter2@h/d",
        "not an address like postgres://user:password@host:5432/database (another scheme)",
    ),
    (
        Setting::DatabaseUrl,
        "postgres://u:hunter2@h:x/d",
        "not an address like postgres://user:password@host:5432/database (invalid port number)",
    ),
    (
        Setting::DatabaseUrl,
        "postgres://u:p@h/d?sslmode=hunter2",
        "not an address like postgres://user:password@host:5432/database (a parameter cannot be read)",
    ),
    (
        Setting::DatabaseSecretArn,
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:app",
        "DATABASE_URL (--database-url) is given, too; give exactly one of them",
    ),
    (
        Setting::DatabaseCa,
        "/no/such/file.pem",
        "\"/no/such/file.pem\" cannot be read: No such file or directory (os error 2)",
    ),
    (
        Setting::UndoFunction,
        "restorer",
        "\"restorer\" is not the ARN of a function, like arn:aws:lambda:REGION:ACCOUNT:function:NAME",
    ),
    (
        Setting::UndoFunction,
        "arn:aws:lambda:us-east-1:123456789012:function:restorer",
        "the function learns from the ledger what was deleted and cannot read a folder; give s3://bucket/prefix by --report (SWEEPER_REPORT)",
    ),
    (Setting::DatabaseCa, "/", "\"/\" is not a file"),
    (
        Setting::MinAge,
        "24",
        "\"24\" is not a time like `24h` or `7d`: it has no unit",
    ),
    (
        Setting::MinAge,
        "-1h",
        "\"-1h\" is not a time like `24h` or `7d`: expected number at 0",
    ),
    (
        Setting::MinAge,
        "a day",
        "\"a day\" is not a time like `24h` or `7d`: expected number at 0",
    ),
    (
        Setting::MinAge,
        "59m",
        "\"59m\" is shorter than 1h; an upload under way could look like an orphan. Longer is safer; --allow-short-min-age allows it",
    ),
    (
        Setting::MinAge,
        "59m\n59s",
        "\"59m\\n59s\" is shorter than 1h; an upload under way could look like an orphan. Longer is safer; --allow-short-min-age allows it",
    ),
    (
        Setting::MinAge,
        "200y",
        "longer than 100 years, and no object is so old; give a time like `24h` or `7d`",
    ),
    (
        Setting::MaxDelete,
        "-1",
        "\"-1\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        Setting::MaxDelete,
        "1.5",
        "\"1.5\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        Setting::MaxDelete,
        "1e3",
        "\"1e3\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        Setting::MaxDelete,
        "1_000",
        "\"1_000\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        Setting::MaxDelete,
        "99999999999999999999",
        "\"99999999999999999999\" is not a whole number from 0 to 18446744073709551615",
    ),
    (
        Setting::MaxOrphanPercent,
        "101",
        "101 is not a percentage from 0 to 100",
    ),
    (
        Setting::MaxOrphanPercent,
        "-1",
        "-1 is not a percentage from 0 to 100",
    ),
    (
        Setting::MaxOrphanPercent,
        "NaN",
        "NaN is not a percentage from 0 to 100",
    ),
    (
        Setting::MaxOrphanPercent,
        "50%",
        "\"50%\" is not a percentage from 0 to 100",
    ),
    (
        Setting::MaxDanglingPercent,
        "100.1",
        "100.1 is not a percentage from 0 to 100",
    ),
    (
        Setting::MaxDanglingPercent,
        "inf",
        "inf is not a percentage from 0 to 100",
    ),
    (
        Setting::AllowUnreferencedFolder,
        "s3://pictures/avatars",
        "an address, but keys begin with no scheme; give what stands behind the bucket or the host, like images/",
    ),
    (
        Setting::MaxReferencedDropPercent,
        "101",
        "101 is not a percentage from 0 to 100",
    ),
    (
        Setting::MaxReplicaLag,
        "5",
        "\"5\" is not a time like `24h` or `7d`: it has no unit",
    ),
    (
        Setting::NotAReference,
        "avatar",
        "\"avatar\" is not a column; write it like public.users.avatar, with schema and table",
    ),
    (
        Setting::NotAReference,
        "public..avatar",
        "\"public..avatar\" is not a column; write it like public.users.avatar, with schema and table",
    ),
    (
        Setting::Concurrency,
        "0",
        "\"0\" is not a whole number from 1 to 256",
    ),
    (
        Setting::Concurrency,
        "257",
        "\"257\" is not a whole number from 1 to 256",
    ),
    (
        Setting::Concurrency,
        "x",
        "\"x\" is not a whole number from 1 to 256",
    ),
    (
        Setting::Report,
        "ftp://x",
        "\"ftp://x\" is neither s3://bucket/prefix nor a folder",
    ),
    (
        Setting::Report,
        "s3://",
        "\"s3://\" is neither s3://bucket/prefix nor a folder",
    ),
    (
        Setting::Report,
        "s3:///ledger",
        "\"s3:///ledger\" is neither s3://bucket/prefix nor a folder",
    ),
    (
        Setting::Report,
        "s3://me@bucket/ledger",
        "\"s3://bucket/ledger\" is neither s3://bucket/prefix nor a folder",
    ),
    (
        Setting::Report,
        "s3:/ledgers/x",
        "\"s3:/ledgers/x\" is neither s3://bucket/prefix nor a folder",
    ),
    (
        Setting::Report,
        "s3://led gers",
        "\"s3://led gers\" is neither s3://bucket/prefix nor a folder",
    ),
    (
        Setting::Report,
        "s3://pictures",
        "the ledger's folder runs/ and what is swept lie one inside of the other; give another bucket or prefix",
    ),
    (
        Setting::Report,
        "s3://pictures/ledger",
        "the ledger's folder runs/ and what is swept lie one inside of the other; give another bucket or prefix",
    ),
];

/// What takes no value as a flag, and only `true` and `false` as a variable.
const SWITCHES: &[Setting] = &[
    Setting::DatabaseIam,
    Setting::AllowShortMinAge,
    Setting::AllowNewerOrphans,
    Setting::AllowOldTransactions,
    Setting::AllowReplica,
    Setting::AllowUnversioned,
    Setting::AllowUnconditional,
    Setting::AbortUploads,
    Setting::DryRun,
];

/// A new setting must be refused somewhere, too.
#[test]
fn every_setting_is_in_a_table_of_what_is_refused() {
    for setting in Setting::ALL {
        let has_a_row = BAD.iter().any(|(bad, ..)| *bad == setting);
        assert_ne!(
            has_a_row,
            SWITCHES.contains(&setting),
            "{setting:?} belongs into BAD or, as a switch, into SWITCHES"
        );
    }
}

#[tokio::test]
async fn a_bad_value_is_refused_by_the_name_of_its_flag_or_variable() {
    let untouched = Untouched::new().await;
    let too_long = "x/".repeat(600);
    let long = "1200 bytes long, but a key has at most 1024";
    let too_long = [
        Setting::Prefix,
        Setting::ReferencePrefix,
        Setting::After,
        Setting::UpTo,
    ]
    .map(|setting| (setting, too_long.as_str(), long));
    for (setting, value, refusal) in BAD.iter().chain(&too_long) {
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
            let in_a_list = format!(
                "{value:?} is not a glob, nor a list: a brace, a bracket or a backslash has no end"
            );
            // A variable holds a list of globs, of which what is left open would swallow the rest.
            let line_of_it = if name == variable && refusal.contains("not a glob") {
                &in_a_list
            } else {
                *refusal
            };
            assert_eq!(line, format!("{name}: {line_of_it}"), "{about}");
            assert!(!line.contains("hunter2"), "{about}: {line}");
        }
    }
    untouched.check();
}

#[tokio::test]
async fn a_switch_takes_no_value_and_its_variable_only_true_and_false() {
    let untouched = Untouched::new().await;
    for setting in SWITCHES {
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
            assert_eq!(
                line,
                format!("{variable}: {value:?} is neither `true` nor `false`")
            );
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
    let stands_for_itself = [Setting::Prefix, Setting::ReferencePrefix];
    for setting in Setting::ALL {
        if SWITCHES.contains(&setting) || stands_for_itself.contains(&setting) {
            continue;
        }
        let flag = setting.names().0;
        let ended = untouched.environment().cli(&["sweep", flag, ""]).await;
        let line = complaint(&ended, flag);
        assert_eq!(
            line,
            format!("{flag}: empty; give a value, or leave it out")
        );
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
fn a_key_range_lies_below_the_prefix_and_holds_keys() {
    let with = |more: &[(Setting, &str)]| {
        let base = [
            (Setting::Bucket, "pictures"),
            (Setting::DatabaseUrl, "postgres://u:p@localhost/d"),
            (Setting::Report, "/tmp/ledger"),
            (Setting::Prefix, "images"),
        ];
        settings(&[&base[..], more].concat()).map(|settings| settings.scope.range().clone())
    };
    let (after, up_to) = ("images/b.png", "images/c.png");
    let range = with(&[(Setting::After, after), (Setting::UpTo, up_to)]).unwrap();
    assert_eq!(range.to_string(), " after images/b.png up to images/c.png");
    assert!(with(&[]).unwrap().is_whole());
    assert!(with(&[(Setting::After, "images/")]).is_ok());
    for (given, refusal) in [
        (
            vec![(Setting::After, "images2/a.png")],
            "--after: \"images2/a.png\" does not lie below the prefix 'images/'",
        ),
        (
            vec![(Setting::UpTo, "image")],
            "--up-to: \"image\" does not lie below the prefix 'images/'",
        ),
        (
            vec![(Setting::After, up_to), (Setting::UpTo, after)],
            "--up-to: \"images/b.png\" does not come behind \"images/c.png\", where the range begins",
        ),
        (
            vec![(Setting::After, after), (Setting::UpTo, after)],
            "--up-to: \"images/b.png\" does not come behind \"images/b.png\", where the range begins",
        ),
    ] {
        assert_eq!(with(&given).unwrap_err(), refusal);
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
        (bound(), bound()),
    )
        .prop_filter_map(
            "a range that holds no key",
            |(prefix, hours, max_delete, percent, dry_run, (after, up_to))| {
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
                let in_order = after
                    .as_ref()
                    .zip(up_to.as_ref())
                    .is_none_or(|(a, b)| a < b);
                given.extend(after.as_deref().map(|key| (Setting::After, key)));
                given.extend(up_to.as_deref().map(|key| (Setting::UpTo, key)));
                in_order.then(|| settings(&given).unwrap())
            },
        )
}

/// A bound of a key range, below every prefix that is tried.
fn bound() -> impl Strategy<Value = Option<String>> {
    proptest::option::weighted(0.4, "images/2026/11/[a-c]")
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
        (bound(), bound()),
    )
        .prop_map(
            |(dry_run, prefix, hours, max_delete, max_orphan_percent, (after, up_to))| {
                EventOptions {
                    dry_run,
                    prefix: prefix.map(str::to_owned),
                    after,
                    up_to,
                    min_age: hours.map(|hours| format!("{hours}h")),
                    max_delete,
                    max_orphan_percent,
                }
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
        let range = tight.scope.range();
        let probes = ["", "images/2026/11/a", "images/2026/11/b", "images/2026/11/bb", "images/2026/11/c", "images/x"];
        prop_assert!(probes.iter().all(|key| !range.contains(key) || configured.scope.range().contains(key)));
        prop_assert!(range.after.is_none() || range.up_to.is_none() || range.after < range.up_to);
        prop_assert!(event.after.as_deref().is_none_or(|key| range.after.as_ref().is_some_and(|after| after.as_str() == key)));
        prop_assert!(event.up_to.as_deref().is_none_or(|key| range.up_to.as_ref().is_some_and(|up_to| up_to.as_str() == key)));
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
            after: configured.scope.range().after.as_ref().map(|key| key.as_str().to_owned()),
            up_to: configured.scope.range().up_to.as_ref().map(|key| key.as_str().to_owned()),
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
