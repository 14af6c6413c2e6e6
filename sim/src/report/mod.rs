//! A run on one page: what a person opens when a seed fails.
//!
//! [`render`] turns a [`Recording`] into one HTML file that needs nothing else: no server, no network, no
//! build. It promises that the page shows the recording as it is, and that no text in it, whatever a
//! node, a client or a scenario wrote, can leave its place and become markup or script.
//!
//! The page (`page.html`) is a template by hand. Two places are filled: the recording as JSON, and the
//! seed once more as text, because a JavaScript number holds no more than 53 bits exactly. Everything
//! else happens in the browser. What it derives beyond the recording:
//!
//! * A process is down from `kill`, `crash` or `exit` until `start`, and before its first `start`. It
//!   is paused from `pause` until `resume` or its end.
//! * A leader whose successor already leads a later term is shown as outdated, although its own role has
//!   not changed yet: that is where stale reads come from.
//! * A network fault lasts until the `heal` that concerns it: one that names no host heals everything; one
//!   with hosts heals the faults of the same `node` (only those whose `others` it names, if it names any)
//!   and the faults whose hosts are all among its own.
//! * A message arrives halfway between its sending and its answer, since nobody noted the moment.
//! * A run that failed without a `violation` event failed at its end.
//!
//! The page describes itself on its root element for tests (`data-ready`, `data-error`,
//! `data-offending-drawn` and others), and opens at a window given in its fragment
//! (`#from=1000&to=2000&messages=vote`), in milliseconds.
//!
//! Left out: comparing runs, and recordings too large for a browser's memory.

pub mod recording;

use self::recording::Recording;

/// The page, with its two [`SEED`] and [`RECORDING`] places unfilled.
const TEMPLATE: &str = include_str!("page.html");
/// Where the seed goes.
const SEED: &str = "{{seed}}";
/// Where the JSON goes.
const RECORDING: &str = "{{recording}}";

/// The page that shows `recording`: the whole contents of an HTML file.
///
/// # Panics
///
/// If the template lacks one of its places, which the tests rule out.
pub fn render(recording: &Recording) -> String {
    let json =
        serde_json::to_string(recording).expect("plain fields and string keys always serialize");
    let (head, rest) = TEMPLATE.split_once(SEED).expect("the template has a place for the seed");
    let (between, tail) =
        rest.split_once(RECORDING).expect("the template has a place for the recording");
    // Filled from the outside in, so that nothing inside the recording is ever taken for a place.
    [head, &recording.seed.to_string(), between, &inert(&json), tail].concat()
}

/// `json` with the same meaning, fit for a `<script>` element: without any `<`, neither `</script>` nor
/// `<!--<script>` (which would make the real end tag part of the text) can occur. JSON has `<` only
/// inside strings, where the escape is always allowed.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::recording::{RecordedEvent, RecordedOperation, RecordedVerdict};
    use super::*;

    /// The text between the page's JSON element's tags.
    fn json_of(page: &str) -> &str {
        let (_, rest) = page.split_once("<script type=\"application/json\"").unwrap();
        let (_, rest) = rest.split_once('>').unwrap();
        rest.split_once("</script>").unwrap().0
    }

    #[test]
    fn every_place_of_the_template_is_there_once_and_gets_filled() {
        assert_eq!(TEMPLATE.matches(SEED).count(), 1);
        assert_eq!(TEMPLATE.matches(RECORDING).count(), 1);
        let page = render(&Recording { seed: 7, ..Recording::default() });
        assert!(!page.contains("{{"), "an unfilled place");
        assert!(page.contains("data-seed=\"7\""));
    }

    #[test]
    fn no_text_breaks_out_of_the_json() {
        let text = "</script><script>alert(1)</script><!--<script>".to_owned();
        let recording = Recording {
            scenario: text.clone(),
            command: text.clone(),
            verdict: RecordedVerdict { kind: text.clone(), what: text.clone() },
            nodes: vec![text.clone()],
            events: vec![RecordedEvent { text: text.clone(), ..RecordedEvent::default() }],
            operations: vec![RecordedOperation {
                outcome: text.clone(),
                ..RecordedOperation::default()
            }],
            ..Recording::default()
        };
        let page = render(&recording);
        let tags = |page: &str| page.matches('<').count();
        assert_eq!(tags(&page), tags(&render(&Recording::default())), "the texts added markup");
        let read: Recording = serde_json::from_str(json_of(&page)).unwrap();
        assert_eq!(read.scenario, text);
        assert_eq!(read.operations[0].outcome, text);
    }

    #[test]
    fn a_text_that_looks_like_a_place_stays_a_text() {
        let recording =
            Recording { scenario: format!("{SEED}{RECORDING}"), ..Recording::default() };
        let read: Recording = serde_json::from_str(json_of(&render(&recording))).unwrap();
        assert_eq!(read.scenario, recording.scenario);
    }

    #[test]
    fn the_largest_seed_is_shown_to_the_last_digit() {
        let page = render(&Recording { seed: u64::MAX, ..Recording::default() });
        assert!(page.contains("data-seed=\"18446744073709551615\""));
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for outside in ["http:", "https:", " src=", "<link", "@import", "url("] {
            assert!(!TEMPLATE.contains(outside), "the page mentions {outside}");
        }
    }
}
