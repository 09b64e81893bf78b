//! The demo tells its whole story, checks it, and leaves nothing behind.
#![cfg(feature = "demo")]

use std::process::Command;

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let temporary = tempfile::TempDir::new().expect("a folder");
    let demo = Command::new(env!("CARGO_BIN_EXE_orphan-sweeper"))
        .args(["demo", "--images", "400"])
        .env("TMPDIR", temporary.path())
        .output()
        .expect("started");
    let (stdout, stderr) = (
        String::from_utf8_lossy(&demo.stdout),
        String::from_utf8_lossy(&demo.stderr),
    );
    assert!(demo.status.success(), "{stdout}\n{stderr}");
    for line in [
        "one after the other",
        "planned, nothing deleted: demo-pictures/images/",
        "guard newer_orphans:",
        "spared by the fresh check: images/",
        "0 orphans, 0 deleted",
        "every referenced image is there, byte for byte:",
    ] {
        assert!(stdout.contains(line), "no line with {line:?} in\n{stdout}");
    }
    assert_eq!(stderr, "");
    let left: Vec<_> = std::fs::read_dir(temporary.path())
        .expect("readable")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
