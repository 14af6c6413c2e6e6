//! What is simulated: yakt as it is, or a service that embeds it.
//!
//! A service of your own runs on every node, beside or around yakt's HTTP API; a client of your own talks to it
//! throughout each run, and your own judge looks at what all clients were answered when the run is over and clean so
//! far. Everything else (schedules, faults, yakt's own clients and checkers, the runner, shrinking, reports) comes along,
//! and there may be scenarios of your own beside yakt's.
//! `sim/examples/own_service.rs` does it in a page.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use yakt::node::Node;

use super::Violation;
use super::client::Client;
use super::exchanges::Exchange;
use super::scenarios::{self, Scenario};
use crate::env::SimEnv;

/// Makes the HTTP service of a node: [`yakt::http::router`], or more than that.
pub type Service = Arc<dyn Fn(Node<SimEnv>) -> axum::Router + Send + Sync>;

/// What a client does from the start of the clients' work to its end, when it is stopped where it is.
pub type Visit = Arc<dyn Fn(Client) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Says whether what all clients asked and were answered is as it must be.
pub type Judge = Arc<dyn Fn(&[Exchange]) -> Result<(), Violation> + Send + Sync>;

/// The command that plays a scenario, by its name, with a seed again.
pub type Again = Arc<dyn Fn(&str, u64) -> String + Send + Sync>;

/// What is simulated.
#[derive(Clone)]
pub struct Subject {
    /// What each node serves.
    pub service: Service,
    /// A client beside those that the schedule plans, if there is to be one.
    pub visit: Option<Visit>,
    /// What must hold beyond what always must.
    pub judge: Judge,
    /// Scenarios beside those of [`scenarios::ALL`], or in their place where they have the same name.
    pub scenarios: Vec<Scenario>,
    /// What a report says to do to see its run again. Without it that is what runs yakt as it is, `cargo sim run`, or
    /// [`program`](super::runner::program())'s own executable where there is one.
    pub again: Option<Again>,
}

impl Subject {
    /// The scenario called `name`: the subject's own, or one that plays any subject.
    #[must_use]
    pub fn scenario(&self, name: &str) -> Option<Scenario> {
        let own = self.scenarios.iter().copied().find(|scenario| scenario.name == name);
        own.or_else(|| scenarios::find(name))
    }

    /// The command that plays the scenario called `name` with `seed` again.
    #[must_use]
    pub fn command(&self, name: &str, seed: u64) -> String {
        match &self.again {
            Some(again) => again(name, seed),
            None => format!("cargo sim run --scenario {name} --seed {seed}"),
        }
    }
}

impl Default for Subject {
    /// yakt as it is.
    fn default() -> Self {
        Self {
            service: Arc::new(yakt::http::router::<SimEnv>),
            visit: None,
            judge: Arc::new(|_| Ok(())),
            scenarios: Vec::new(),
            again: None,
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("visited", &self.visit.is_some())
            .field("scenarios", &self.scenarios)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::scenarios::{Script, Wants, play_with};

    /// The first half second of a swarm, without faults.
    const CALM: Scenario = Scenario::drawn("calm", "nothing goes wrong", |seed| {
        let mut schedule = scenarios::find("swarm").unwrap().draw(seed).unwrap();
        schedule.settings.duration_millis = 500;
        schedule.faults.clear();
        schedule
    });

    #[test]
    fn a_scenario_of_ones_own_is_played_and_its_report_names_ones_own_command() {
        let subject = Subject {
            scenarios: vec![CALM],
            again: Some(Arc::new(|name, seed| format!("mine {name} {seed}"))),
            ..Subject::default()
        };
        let calm = subject.scenario("calm").unwrap();
        assert_eq!(subject.scenario("swarm").unwrap().name, "swarm");
        assert!(Subject::default().scenario("calm").is_none());
        assert_eq!(calm.draw(3).unwrap().scenario, "calm");
        let wants = Wants { recording: true, ..Wants::default() };
        let played = play_with(subject, Script::Seed(calm, 3), wants);
        let recording = played.recording.unwrap();
        assert_eq!(recording.command, "mine calm 3");
        assert_eq!((recording.scenario.as_str(), recording.seed), ("calm", 3));
    }
}
