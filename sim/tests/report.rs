//! A report in a real browser: drawn without an error, with the offending operation and the violation in sight.
//!
//! Needs Chromium, whose program `YAKT_CHROMIUM` names if it is none of the usual ones. Without it the test says that
//! it did not look; where it must look, as in `.ci/run`, `YAKT_CHROMIUM` is set, and then a browser that cannot be started
//! is a failure.

#![cfg(madsim)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the browser is a real process")]

use std::path::{Path, PathBuf};
use std::process::Command;

use yakt_sim::harness::scenarios::{Script, Wants, find, play};
use yakt_sim::report::recording::{RecordedEvent, RecordedVerdict, Recording};
use yakt_sim::report::render;

/// What the browser is called, if nobody says.
const USUAL: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// So that it neither needs a display nor talks to anyone.
const SWITCHES: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
];

fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("YAKT_CHROMIUM") {
        return Some(named.into());
    }
    let there = |name: &&&str| Command::new(**name).arg("--version").output().is_ok();
    USUAL.iter().find(there).map(PathBuf::from)
}

/// Opens `page`, and returns its document as it stands when all is drawn; takes a picture too.
fn look(browser: &Path, dir: &Path, page: &str) -> (String, Vec<u8>) {
    let (file, picture) = (dir.join("report.html"), dir.join("report.png"));
    std::fs::write(&file, page).unwrap();
    let open = |more: &str| {
        let mut command = Command::new(browser);
        command.args(SWITCHES).arg(format!("--user-data-dir={}", dir.join("profile").display()));
        command.args(["--window-size=1500,1000", more]).arg(format!("file://{}", file.display()));
        let output =
            command.output().unwrap_or_else(|error| panic!("{}: {error}", browser.display()));
        assert!(output.status.success(), "{}: {output:?}", browser.display());
        String::from_utf8(output.stdout).unwrap()
    };
    let document = open("--dump-dom");
    open(&format!("--screenshot={}", picture.display()));
    (document, std::fs::read(picture).unwrap())
}

/// A run of a minute with faults, made to look as if its tenth operation broke a promise.
fn broken_run() -> Recording {
    let swarm = find("swarm").unwrap();
    let wants = Wants { recording: true, ..Wants::default() };
    let mut recording = play(Script::Seed(swarm, 7), wants).recording.unwrap();
    let what = "linearizability of topic t1: it was there, and then it was not".to_owned();
    recording.verdict = RecordedVerdict { kind: "safety".to_owned(), what: what.clone() };
    recording.operations[9].offending = true;
    let at = recording.operations[9].end.unwrap_or(recording.operations[9].begin);
    let violation =
        RecordedEvent { at, kind: "violation".to_owned(), text: what, ..RecordedEvent::default() };
    recording.events.push(violation);
    recording.events.sort_by(|a, b| a.at.total_cmp(&b.at));
    recording
}

#[test]
fn a_browser_draws_the_run_and_shows_what_broke() {
    let Some(browser) = browser() else {
        eprintln!("NOT TESTED: there is no Chromium here; YAKT_CHROMIUM names one");
        return;
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    std::fs::create_dir_all(&dir).unwrap();
    let recording = broken_run();
    let (document, picture) = look(&browser, &dir, &render(&recording));
    let root = document.split_once("<html").unwrap().1.split_once('>').unwrap().0;
    for (name, value) in [
        ("data-ready", "true".to_owned()),
        ("data-verdict", "safety".to_owned()),
        ("data-nodes", "5".to_owned()),
        ("data-operations", recording.operations.len().to_string()),
        ("data-offending", "1".to_owned()),
        ("data-offending-drawn", "1".to_owned()),
        ("data-violations", "1".to_owned()),
    ] {
        assert!(
            root.contains(&format!("{name}=\"{value}\"")),
            "{name} is not {value} in <html{root}>"
        );
    }
    assert!(!root.contains("data-error"), "<html{root}>");
    assert!(document.contains("it was there, and then it was not"));
    // An empty window of this size makes a picture of a few thousand bytes.
    assert!(picture.len() > 40_000, "the picture has {} bytes", picture.len());
}
