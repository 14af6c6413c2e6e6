//! `cargo sim` as its users meet it: exit codes, JSON, and files.

#![cfg(madsim)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the command is a real process")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SIM: &str = env!("CARGO_BIN_EXE_sim");

fn sim(line: &str) -> Output {
    Command::new(SIM).args(line.split_whitespace()).output().unwrap()
}

fn code(line: &str) -> i32 {
    let output = sim(line);
    output.status.code().unwrap_or_else(|| panic!("{line}: {output:?}"))
}

fn json(line: &str) -> Value {
    let output = sim(line);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{line}: {error}: {output:?}"))
}

fn text(line: &str) -> String {
    String::from_utf8(sim(line).stdout).unwrap()
}

/// A fresh directory for one test.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn exit_codes_tell_failures_apart() {
    for (selftest, expected) in [
        ("clean", 0),
        ("unrecoverable", 0),
        ("safety", 10),
        ("liveness", 11),
        ("panic", 12),
        ("abort", 12),
        ("hang --hang-after 500ms", 13),
    ] {
        assert_eq!(code(&format!("run --seed 7 --scenario selftest-{selftest}")), expected);
        let sweep = format!("sweep --seeds 2 --twice-every 0 --scenario selftest-{selftest}");
        assert_eq!(code(&sweep), expected, "{sweep}");
    }
}

#[test]
fn a_sweep_that_finds_a_difference_says_so() {
    let dir = scratch("difference");
    let line = format!("--seeds 3 --scenario selftest-diverge --report-dir {}", dir.display());
    assert_eq!(code(&format!("sweep --twice-every 1 {line}")), 14);
    assert_eq!(code(&format!("sweep --twice-every 0 {line}")), 0);
}

#[test]
fn a_sweep_can_insist_on_coverage() {
    let line = "sweep --scenario selftest-clean --seeds 10 --coverage";
    assert_eq!(code(line), 15);
    let missing = json(&format!("{line} --json"))["coverageMissing"].clone();
    let missing: Vec<String> = serde_json::from_value(missing).unwrap();
    assert!(missing.contains(&"a joint membership was applied".to_owned()), "{missing:?}");
    // Selftests recover a log.
    assert!(!missing.contains(&"a node recovered a log from its disk".to_owned()), "{missing:?}");
    // Nothing is due in so few seeds.
    assert_eq!(code("sweep --scenario selftest-clean --seeds 2 --coverage"), 0);
}

#[test]
fn nonsense_is_refused() {
    for line in ["run", "run --seed 1 --scenario none", "replay /no/such/file.json", "frobnicate"] {
        assert_eq!(code(line), 2, "{line}");
    }
    assert_eq!(code("schedule --seed 1 --scenario elect_write_read"), 2, "it is scripted");
}

#[test]
fn help_explains_exit_codes() {
    let help = text("--help");
    for code in
        ["10  safety", "11  liveness", "12  crash", "13  hang", "14  non-det", "15  coverage"]
    {
        assert!(help.contains(code), "{code}: {help}");
    }
}

#[test]
fn a_run_in_json_names_its_failure() {
    let run = json("run --seed 7 --scenario selftest-panic --json");
    assert_eq!((&run["result"], &run["exitCode"]), (&"crash".into(), &12.into()));
    assert_eq!(run["failure"]["what"], "seed 7 panics");
    assert_eq!(run["reproduce"], "cargo sim run --scenario selftest-panic --seed 7");
    let run = json("run --seed 7 --scenario selftest-clean --json");
    assert_eq!(run["outcome"]["summary"]["operations"], 2);
}

#[test]
fn a_sweep_names_the_command_for_each_failure() {
    let line = "sweep --from 5 --seeds 4 --scenario selftest-safety";
    let said = text(line);
    assert!(said.contains("4 runs, seeds 5, 6, 7, 8\n"), "{said}");
    assert!(said.contains("cargo sim run --scenario selftest-safety --seed 5\n"), "{said}");
    let sweep = json(&format!("{line} --json"));
    assert_eq!((&sweep["runs"], &sweep["baseSeed"]), (&4.into(), &5.into()));
    let group = &sweep["failures"][0];
    assert_eq!((&group["kind"], &group["signature"]), (&"safety".into(), &"seeds are kept".into()));
    assert_eq!(
        (&group["seed"], &group["what"]),
        (&5.into(), &"seeds are kept: seed 5 was lost".into())
    );
    assert_eq!(group["lowest"][3]["seed"], 8);
}

#[test]
fn a_report_dir_shows_each_sort_of_failure() {
    let dir = scratch("report-dir");
    let line =
        format!("sweep --seeds 3 --scenario selftest-liveness --report-dir {}", dir.display());
    assert_eq!(code(&line), 11);
    let page = std::fs::read_to_string(dir.join("selftest-liveness-1.html")).unwrap();
    assert!(page.contains("selftest-liveness"));
}

#[test]
fn all_that_exists_is_listed_and_tests_are_not() {
    let list = text("list");
    assert!(list.contains("swarm") && list.contains("a follower truncated its log"), "{list}");
    assert!(!list.contains("selftest"), "{list}");
}

#[test]
fn a_schedule_from_a_seed_can_be_replayed() {
    let dir = scratch("replay");
    let (schedule, page) = (dir.join("swarm-1.json"), dir.join("x.html"));
    std::fs::write(&schedule, text("schedule --seed 1")).unwrap();
    let replay = format!("replay {}", schedule.display());
    let replayed = json(&format!("{replay} --json --report {}", page.display()));
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&format!("cargo sim {replay}")), "the report names the file");
    let run = json("run --seed 1 --json");
    assert_eq!(
        replayed["outcome"], run["outcome"],
        "the same run from a seed and from its schedule"
    );
    assert_eq!(replayed["exitCode"], run["exitCode"]);
}

/// A run whose runner is killed would go on for ever if it hangs.
#[test]
fn a_run_ends_with_its_runner() {
    let job = r#"{"play":{"seed":{"piece":"selftest-hang","seed":7}}}"#;
    let mut child = Command::new(SIM)
        .env("YAKT_SIM_JOB", job)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it hangs");
    drop(child.stdin.take());
    assert!(ends(&mut child), "it went on without its runner");
}

fn ends(child: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // It must not outlive the test.
    child.kill().unwrap();
    child.wait().unwrap();
    false
}
