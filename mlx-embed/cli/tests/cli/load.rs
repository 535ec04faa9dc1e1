//! `mlx-embed load`.

use serde_json::Value;

use crate::support::{Ran, binary, on, run};

const CASE: &str = "qwen3-affine-4bit-g64";

fn load(arguments: &[&str]) -> Ran {
    run(on("load", CASE).args(arguments))
}

fn json(arguments: &[&str]) -> Value {
    report(&load(&[arguments, &["--json", "--quiet"]].concat()))
}

fn report(ran: &Ran) -> Value {
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    ran.json()
}

fn counts(report: &Value) -> [u64; 5] {
    ["requests", "done", "refused", "late", "failed"].map(|name| report[name].as_u64().unwrap())
}

#[test]
fn every_request_is_told_of() {
    let report = json(&["--rate", "40", "--texts", "3", "--seconds", "0.5", "--arrivals", "constant"]);
    assert_eq!(counts(&report), [20, 20, 0, 0, 0]);
    assert_eq!(report["errors"], 0);
    let number = |name: &str| report[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {report}"));
    assert_eq!(number("intended_rate"), 40.0);
    assert!(
        (number("achieved_rate") - 20.0 / number("elapsed_s")).abs() < 1e-9 && number("elapsed_s") >= 0.5
    );
    let quantiles = ["p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"].map(number);
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{quantiles:?}");
    for part in ["lag", "submit", "queue", "device_time", "overhead"] {
        let part = &report[part];
        assert!(part["p50_ms"].as_f64().unwrap() <= part["p95_ms"].as_f64().unwrap(), "{part}");
    }
    assert!(number("tokens_per_text") > 5.0);
    let tokens = number("tokens_per_s") * number("elapsed_s");
    assert!((tokens / (60.0 * number("tokens_per_text")) - 1.0).abs() < 1e-9);
    // Nothing was shared or cached: each text was computed.
    assert!((number("batches") * number("texts_per_batch") - 60.0).abs() < 1e-6, "{report}");
    assert!(number("busy") > 0.0);
    if cfg!(target_os = "linux") {
        for memory in ["resident_start_bytes", "resident_end_bytes", "peak_end_bytes"] {
            assert!(number(memory) > f64::from(1 << 20), "{memory}");
        }
    }
    assert_eq!((&report["device"], &report["precision"]), (&"cpu".into(), &"exact".into()));
}

#[test]
fn arrivals_change_the_gaps_and_not_the_number() {
    assert_eq!(counts(&json(&["--rate", "100", "--seconds", "0.3"]))[0], 30);
    assert_eq!(counts(&json(&["--rate", "100", "--seconds", "0.3", "--arrivals", "constant"]))[0], 30);
}

#[test]
fn the_table_tells_it_too() {
    let ran = load(&["--rate", "40", "--seconds", "0.2", "--arrivals", "constant"]).done();
    for part in ["8: 8 done, 0 refused, 0 late, 0 failed", "\nlatency ", "\n  overhead ", "tokens a text"] {
        assert!(ran.stdout.contains(part), "{part:?} is not in {}", ran.stdout);
    }
}

#[test]
fn an_overload_is_shed_by_timeout() {
    // A tenth of what is asked in the first phase is too much for one thread.
    let mut command = binary();
    command.args(["load", "--device", "cpu", "--threads", "1", "--json", "--quiet", "--rate", "1000"]);
    command.args(["--texts", "10", "--timeout", "100", "--phases", "1x0.2,0.01x1", "--limit", "1000"]);
    let report = report(&run(&mut command));
    let [requests, done, refused, late, failed] = counts(&report);
    assert_eq!((requests, failed), (done + refused + late, 0));
    assert!(late > 0, "{report}");
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    assert_eq!(phases.iter().map(|phase| counts(phase)[0]).sum::<u64>(), requests);
    // How soon that is depends on what else the machine does.
    assert!(phases[0]["recovered_after_s"].as_f64().is_none_or(|seconds| seconds <= 1.0), "{report}");
    assert!(phases[1]["recovered_after_s"].is_null());
    assert_eq!(phases[1]["intended_rate"], 10.0);
    // A timeout that cannot be met sheds everything, and that is no failure.
    let shed = json(&["--rate", "50", "--seconds", "0.2", "--timeout", "0.001"]);
    let [requests, done, refused, late, failed] = counts(&shed);
    assert_eq!([done, refused, late, failed], [0, 0, requests, 0]);
    assert_eq!((&shed["p95_ms"], &shed["tokens_per_text"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_search_says_every_step() {
    let arguments = ["--search", "--rate", "50", "--seconds", "0.1", "--limit", "0.001"];
    let report = json(&arguments);
    // No answer takes a microsecond: halved until a run has no request.
    assert_eq!((&report["highest_rate"], &report["at_highest_rate"]), (&Value::Null, &Value::Null));
    let rates: Vec<f64> =
        report["steps"].as_array().unwrap().iter().map(|step| step["rate"].as_f64().unwrap()).collect();
    assert_eq!(rates, [50.0, 25.0, 12.5]);
    let ran = load(&arguments).done();
    assert_eq!(ran.stderr.lines().count(), 4, "{}", ran.stderr);
    assert!(ran.stdout.contains("give a higher --limit"), "{}", ran.stdout);
}

#[test]
fn a_search_finds_a_rate() {
    let report = json(&["--search", "--rate", "4000", "--texts", "8", "--seconds", "0.1", "--limit", "200"]);
    let steps = report["steps"].as_array().unwrap();
    let good = steps.iter().filter(|step| step["under_limit"] == true);
    let fastest = good.map(|step| step["rate"].as_f64().unwrap()).reduce(f64::max);
    assert_eq!(report["highest_rate"].as_f64(), fastest, "{report}");
    // On a machine that is busy with something else there may be none.
    let Some(best) = fastest else {
        assert!(report["at_highest_rate"].is_null(), "{report}");
        return;
    };
    assert!((report["at_highest_rate"]["intended_rate"].as_f64().unwrap() / best - 1.0).abs() < 1e-9);
    assert_eq!(report["at_highest_rate"]["errors"], 0);
}

#[test]
fn what_cannot_be_is_refused() {
    for (option, values) in [
        ("--rate", ["0", "-1", "nan", "1e9"].as_slice()),
        ("--texts", &["0", "1.5", "many"]),
        ("--seconds", &["0", "-1", "inf", "soon"]),
        ("--timeout", &["0", "-5", "1e99"]),
        ("--limit", &["0", "x"]),
        ("--phases", &["", "2", "2x", "0x5", "2x5,"]),
        ("--arrivals", &["uniform"]),
    ] {
        for value in values {
            load(&[&format!("{option}={value}")]).failed(2, &[option]);
        }
    }
    for together in [["--search", "--phases=1x1"], ["--seconds=1", "--phases=1x1"]] {
        load(&together).failed(2, &["cannot be used with"]);
    }
    load(&["--rate", "0.1", "--seconds", "1"]).failed(2, &["--rate", "--seconds"]);
    load(&["--prompt-name", "nope"]).failed(2, &["`nope`"]);
}

#[test]
fn more_than_can_be_made_at_once_is_refused() {
    for (flag, value) in [("--texts", "18446744073709551615"), ("--texts", "100000000")] {
        load(&["--seconds", "0.01", flag, value]).failed(2, &[flag, "from 1 to"]);
    }
}
