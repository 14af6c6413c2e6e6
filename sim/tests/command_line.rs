//! `cargo sim` as its users meet it: exit codes, JSON, and files.

#![cfg(madsim)]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::disallowed_methods, reason = "the command is a real process")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const SIM: &str = env!("CARGO_BIN_EXE_sim");

/// In a directory for what nobody looks at.
fn sim(line: &str) -> Output {
    sim_in(Path::new(env!("CARGO_TARGET_TMPDIR")), line)
}

fn sim_in(dir: &Path, line: &str) -> Output {
    Command::new(SIM).current_dir(dir).args(line.split_whitespace()).output().unwrap()
}

fn code(line: &str) -> i32 {
    let output = sim(line);
    output.status.code().unwrap_or_else(|| panic!("{line}: {output:?}"))
}

fn json(line: &str) -> Value {
    json_in(Path::new(env!("CARGO_TARGET_TMPDIR")), line)
}

fn json_in(dir: &Path, line: &str) -> Value {
    let output = sim_in(dir, line);
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
fn a_run_that_fails_is_shown_on_a_page() {
    let dir = scratch("default-report");
    for (selftest, more, code) in [
        ("safety", "", 10),
        ("liveness", "", 11),
        ("panic", "", 12),
        ("hang", " --hang-after 2s", 13),
    ] {
        let command = format!("run --scenario selftest-{selftest} --seed 7");
        let line = format!("{command}{more}");
        let file = format!("target/sim/selftest-{selftest}-7.html");
        let output = sim_in(&dir, &line);
        assert_eq!(output.status.code(), Some(code));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains(&format!("  report: {file}\n")), "{said}");
        let page = std::fs::read_to_string(dir.join(&file)).unwrap();
        assert!(page.contains(&format!("cargo sim {command}")), "the page says what it shows");
        assert!(page.contains("event 49 of seed 7"), "the page shows what happened");
        std::fs::remove_file(dir.join(&file)).unwrap();
        assert_eq!(json_in(&dir, &format!("{line} --json"))["report"], file.as_str());
        assert!(dir.join(&file).exists());
    }
    let page = std::fs::read_to_string(dir.join("target/sim/selftest-panic-7.html")).unwrap();
    assert!(page.contains(r#""kind":"crash","what":"seed 7 panics\nat "#), "it says what panicked");
    assert!(!page.contains("event 50 of seed 7"), "that was after the panic");
}

#[test]
fn no_page_is_written_of_a_clean_run_nor_where_none_is_wanted() {
    let dir = scratch("no-report");
    for line in [
        "run --seed 7 --scenario selftest-clean",
        "run --seed 7 --scenario selftest-safety --no-report",
        "run --seed 7 --scenario selftest-hang --hang-after 500ms --no-report",
        "sweep --seeds 2 --scenario selftest-clean",
        "sweep --seeds 2 --scenario selftest-safety --no-report",
    ] {
        assert!(json_in(&dir, &format!("{line} --json"))["report"].is_null(), "{line}");
        assert!(!dir.join("target").exists(), "{line}");
    }
}

#[test]
fn a_sweep_that_fails_leaves_pages_and_schedules() {
    let dir = scratch("default-reports");
    let line = "sweep --from 5 --seeds 2 --twice-every 0 --scenario selftest-meeting --json";
    let reports = json_in(&dir, line)["reports"].clone();
    let expected = ["json", "html"].map(|end| format!("target/sim/selftest-meeting-5.{end}"));
    let mut reports: Vec<String> = serde_json::from_value(reports).unwrap();
    reports.reverse();
    assert_eq!(reports, expected);
    assert!(expected.iter().all(|file| dir.join(file).exists()));
    let replayed = sim_in(&dir, "replay target/sim/selftest-meeting-5.json --no-report");
    assert_eq!(replayed.status.code(), Some(10));
    let line = "sweep --seeds 1 --twice-every 0 --scenario selftest-panic --json";
    let reports = json_in(&dir, line)["reports"].clone();
    assert_eq!(reports, serde_json::json!(["target/sim/selftest-panic-1.html"]));
}

#[test]
fn a_failing_schedule_is_made_smaller_and_still_fails() {
    let dir = scratch("shrink");
    let line = "shrink --seed 7 --scenario selftest-meeting";
    let shrunk = json_in(&dir, &format!("{line} --out small.json --json"));
    assert_eq!(shrunk["signature"]["text"], "faults meet nobody", "{shrunk}");
    let count = |size: &str, what: &str| shrunk[size][what].as_u64().unwrap();
    assert!(count("before", "faults") > 1 && count("before", "operations") > 1, "{shrunk}");
    assert_eq!((count("after", "faults"), count("after", "operations")), (1, 1), "{shrunk}");
    assert!(count("after", "durationMillis") <= 100, "{shrunk}");
    assert_eq!(
        (&shrunk["file"], &shrunk["reproduce"], &shrunk["timeWasUp"]),
        (&"small.json".into(), &"cargo sim replay small.json".into(), &false.into())
    );
    let written = std::fs::read_to_string(dir.join("small.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["faults"].as_array().unwrap().len(), 1);

    // Exits as the seed does.
    let run = sim_in(&dir, "run --seed 7 --scenario selftest-meeting --no-report");
    let replayed = sim_in(&dir, "replay small.json");
    assert_eq!((run.status.code(), replayed.status.code()), (Some(10), Some(10)));
    let said = String::from_utf8(replayed.stdout).unwrap();
    assert!(said.contains("1 met 1 operations"), "{said}");

    // Nothing is left to take away, and it says so to people too.
    let again = sim_in(&dir, "shrink --file small.json");
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(said.starts_with("safety: faults meet nobody\n  before: faults: 1, op"), "{said}");
    assert!(said.contains("  after:  faults: 1, operations: 1"), "{said}");
    assert!(said.contains("cargo sim replay selftest-meeting-7.min.json\n"), "{said}");
}

#[test]
fn what_does_not_fail_is_not_made_smaller() {
    let dir = scratch("shrink-clean");
    let schedule = text("schedule --seed 7 --scenario selftest-meeting");
    let mut schedule: Value = serde_json::from_str(&schedule).unwrap();
    schedule["faults"] = serde_json::json!([]);
    std::fs::write(dir.join("clean.json"), schedule.to_string()).unwrap();
    assert_eq!(sim_in(&dir, "shrink --file clean.json").status.code(), Some(2));
    assert_eq!(sim_in(&dir, "replay clean.json").status.code(), Some(0));
}

#[test]
fn the_lists_are_there_for_programs_too() {
    let lists = json("list --json");
    let named = |list: &str, name: &str| {
        let entries = lists[list].as_array().unwrap().iter();
        entries.filter(|entry| entry["name"] == name).cloned().collect::<Vec<_>>()
    };
    let swarm = named("scenarios", "swarm");
    assert_eq!((swarm.len(), &swarm[0]["seeds"]), (1, &"drawn".into()));
    assert!(swarm[0]["about"].as_str().is_some_and(|about| about.contains("go wrong")));
    assert_eq!(named("scenarios", "growth")[0]["seeds"], "scripted");
    let site = named("sites", "a follower truncated its log");
    assert!(site[0]["dueWithinSeeds"].as_u64().is_some_and(|seeds| seeds > 0), "{site:?}");
}

/// `cargo sim list | head -1` panicked: "failed printing to stdout".
#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    for (line, code) in [
        ("list", 0),
        ("list --json", 0),
        ("schedule --seed 1", 0),
        ("run --seed 7 --scenario selftest-clean", 0),
        ("run --seed 7 --scenario selftest-safety --no-report", 10),
        ("sweep --seeds 1 --scenario selftest-safety --no-report", 10),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(SIM);
        let output = command.args(line.split_whitespace()).stdout(writer).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {complaint}");
        assert!(!complaint.contains("panicked"), "{line}: {complaint}");
    }
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
