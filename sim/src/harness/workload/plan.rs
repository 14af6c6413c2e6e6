//! What clients will ask, drawn from the seed before anything runs.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};
use yakt::raft::NodeId;

use super::spice;
use crate::rng::SeededRng;

/// No node's number: in a plan, whoever leads.
pub const LEADER: NodeId = 0;

/// One step of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// How long the client waits before it, in microseconds.
    pub pause: u64,
    /// If it comes to it earlier, it waits until then: microseconds since the clients began.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_before: u64,
    /// Which node it asks first; [`LEADER`] for whichever leads then.
    pub node: NodeId,
    /// Whether a write carries an `Idempotency-Key` and is sent again until it is answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keyed: bool,
    /// Whether a keyed write is sent only once, whatever its outcome.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// Whether a read is content with what the asked node has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// What it asks.
    pub what: What,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks in this way")]
pub(in crate::harness) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a client asks. Numbers are names: topic 7 is `t7`, broker 3 has id 3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// `create_topic`
    CreateTopic(u32),
    /// `get_topic_by_name`
    ReadTopic(u32),
    /// `create_partition` of a topic that the client was told of
    CreatePartition {
        /// The topic.
        topic: u32,
        /// The partition's number.
        number: u32,
        /// The brokers that hold it.
        replicas: Vec<u32>,
    },
    /// `register_broker`
    RegisterBroker {
        /// Its id.
        broker: u32,
        /// Its port.
        port: u16,
    },
    /// `update_broker`
    UpdateBroker {
        /// Its id.
        broker: u32,
        /// A new port.
        port: Option<u16>,
        /// Fenced, or back alive.
        fenced: Option<bool>,
        /// Whether the epoch that the client last saw must still hold.
        guarded: bool,
    },
    /// `unregister_broker`
    CloseBroker(u32),
    /// `get_broker_by_id`
    ReadBroker(u32),
    /// `get_active_brokers`
    ActiveBrokers,
    /// `register_producer`
    RegisterProducer(u32),
    /// `broker_mgmt` or `client_mgmt` from the last offset
    Poll {
        /// Which of the two.
        brokers: bool,
        /// With `?mode=diff`.
        diff: bool,
    },
    /// A keyed write of this many keyed writes ago, again.
    Repeat(u32),
    /// Something that must be refused; the number says what.
    Bad(u8),
    /// The key of a keyed write of this many keyed writes ago, with another request: must be refused.
    Reuse(u32),
    /// What a node says about itself.
    Look(Look),
    /// `create_partition` with fields that `CreatePartition` omits.
    Place(Box<Placement>),
    /// `register_broker` with fields that `RegisterBroker` omits.
    Enlist {
        /// Its id.
        broker: u32,
        /// Its port.
        port: u16,
        /// The number of its host.
        host: u8,
        /// The number of its rack, if it names one.
        rack: Option<u8>,
        /// Its security protocol, by its place in [`PROTOCOLS`], if it names one.
        protocol: Option<u8>,
    },
    /// `update_broker` with fields that `UpdateBroker` omits.
    Alter {
        /// Its id.
        broker: u32,
        /// The number of its new host.
        host: Option<u8>,
        /// Its new security protocol, by its place in [`PROTOCOLS`].
        protocol: Option<u8>,
        /// Its new status, by its place in [`STATUSES`].
        status: Option<u8>,
        /// Whether the epoch that the client last saw must still hold.
        guarded: bool,
    },
    /// `register_producer` with an id of the client's choice.
    ProduceAs {
        /// The broker.
        broker: u32,
        /// The producer's id.
        producer: u32,
    },
    /// The key and the body of a keyed write of this many keyed writes ago, on another path: must
    /// be refused.
    Misroute(u32),
    /// The key of the client's first keyed write that is surely forgotten, with another request: a
    /// new change.
    Revive,
    /// `create_topic`, this many, with the longest names: few requests make a state of megabytes.
    /// Up to 24 of them are under way at the same time.
    Bulk {
        /// The number of the first topic.
        first: u32,
        /// How many there are.
        count: u16,
    },
    /// The same, asked in another way that the contract allows. What has no such way is asked as ever.
    Otherwise(Way, Box<What>),
}

/// The statuses of the contract, for [`What::Alter`]. A broker cannot become the first.
pub const STATUSES: [&str; 5] = ["INIT", "FENCED", "UNFENCED", "ALIVE", "CLOSED"];

/// Security protocols, for [`What::Enlist`] and [`What::Alter`]. Any legal name is one.
pub const PROTOCOLS: [&str; 3] = ["PLAINTEXT", "SASL_SSL", "TCP"];

/// A partition with all fields that a request may set. Brokers are numbers, as in [`What`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The topic.
    pub topic: u32,
    /// The partition's number.
    pub number: u32,
    /// The brokers that hold it.
    pub replicas: Vec<u32>,
    /// Those of them that are in sync, if the client says so.
    pub isr: Option<Vec<u32>>,
    /// Those of them that a reassignment takes away.
    pub removing: Option<Vec<u32>>,
    /// Those of them that a reassignment brings in.
    pub adding: Option<Vec<u32>>,
    /// The leader, if the client names one: broker 0 stands for no leader.
    pub leader: Option<u32>,
}

/// What a node says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// `cluster`
    Cluster,
    /// `healthz`
    Healthy,
    /// `readyz`
    Ready,
    /// `metrics`
    Metrics,
    /// `openapi.json`
    Openapi,
}

/// Other ways to ask the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// PUT `update_broker`, DELETE `unregister_broker`.
    Method,
    /// A broker by the last internal UUID that the client was told of it.
    Uuid,
    /// A body in a record's envelope.
    Envelope,
    /// `update_broker` with `internalUUID` in place of `brokerId`.
    InternalUuid,
    /// A port as a string.
    Text,
    /// Omitted fields are sent as `null`.
    Nulls,
    /// With fields that only the server sets, as in a record that was read.
    Whole,
    /// With a query that states the defaults.
    Defaults,
    /// With `Accept-Encoding: gzip`.
    Gzip,
    /// With `Accept-Encoding: zstd`.
    Zstd,
    /// A poll from an offset that is an hour ahead, as if it came from another cluster.
    Foreign,
}

/// What a run's clients are like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many clients.
    pub clients: usize,
    /// How long they work, in microseconds.
    pub duration: u64,
    /// Pause between two operations, on average, in microseconds.
    pub pause: u64,
    /// Operations of one client at most; what is left of the time is spread between them as quiet periods.
    pub operations_max: usize,
    /// Nodes to ask.
    pub nodes: NodeId,
    /// If not empty, when all clients come at once, in microseconds: between these moments it is quiet.
    pub rushes: Vec<u64>,
    /// How many brokers there are: the fewer, the hotter.
    pub brokers: u32,
    /// Relative frequencies of: topics, partitions, brokers' coming and going, brokers' updates, producers,
    /// reads, polls, repeats, bad requests.
    pub weights: [u32; 9],
    /// Of 100 writes, how many carry a key.
    pub keyed: u32,
    /// Of 100 reads, how many are stale.
    pub stale: u32,
}

/// A number below `bound`, small ones far likelier: half of all draws fall on a few.
fn zipf(rng: &mut SeededRng, bound: u32) -> u32 {
    let (a, b) = (rng.random_range(0..bound.max(1)), rng.random_range(0..bound.max(1)));
    a.min(b).min(rng.random_range(0..bound.max(1)))
}

/// How far apart the first topics of two clients are.
const TOPICS_PER_CLIENT: u32 = 100_000;

impl Shape {
    /// A steady mix of everything, for `clients` clients.
    #[must_use]
    pub fn steady(clients: usize, duration: u64, nodes: NodeId) -> Self {
        Self {
            clients,
            duration,
            pause: 30_000,
            operations_max: usize::MAX,
            nodes,
            rushes: Vec::new(),
            brokers: 8,
            weights: [8, 2, 2, 3, 2, 6, 3, 1, 1],
            keyed: 50,
            stale: 10,
        }
    }

    /// What each client will ask.
    #[must_use]
    pub fn draw(&self, rng: &mut SeededRng) -> Vec<Vec<Operation>> {
        let draw = |client| spice::add(self, self.draw_client(client, rng));
        (0..self.clients).map(draw).collect()
    }

    fn draw_client(&self, client: usize, rng: &mut SeededRng) -> Vec<Operation> {
        let mut operations = Vec::new();
        let (mut elapsed, mut topics) = (0, 0);
        for rush in &self.rushes {
            for nth in 0..self.operations_max / self.rushes.len() {
                let pause = rng.random_range(0..2 * self.pause.max(1));
                let not_before = if nth == 0 { *rush + pause } else { 0 };
                let operation = self.draw_operation(client, &mut topics, pause, not_before, rng);
                let look = self.draw_look(&operation, rng);
                operations.push(operation);
                operations.extend(look);
            }
        }
        if !self.rushes.is_empty() {
            return operations;
        }
        let expected = usize::try_from(self.duration / self.pause.max(1)).unwrap_or(usize::MAX);
        // Too few operations for the time: they come in bursts, with quiet between them.
        let busy = expected <= self.operations_max;
        let quiet = self.duration / (self.operations_max as u64 / 20).max(1);
        while elapsed < self.duration && operations.len() < self.operations_max {
            let mut pause = rng.random_range(0..2 * self.pause.max(1));
            if !busy && rng.random_range(0..20) == 0 {
                pause += rng.random_range(0..2 * quiet.max(1));
            }
            elapsed += pause;
            let operation = self.draw_operation(client, &mut topics, pause, 0, rng);
            let look = self.draw_look(&operation, rng);
            operations.push(operation);
            operations.extend(look);
        }
        operations
    }

    /// Now and then a client that was told of a topic looks for it at once, and somewhere else: a node that answers
    /// from what it knew a moment ago is caught by nobody who is slower.
    fn draw_look(&self, operation: &Operation, rng: &mut SeededRng) -> Option<Operation> {
        let What::CreateTopic(topic) = operation.what else { return None };
        let (look, node) = (rng.random_range(0..3) == 0, rng.random_range(1..=self.nodes));
        let what = What::ReadTopic(topic);
        look.then_some(Operation {
            pause: 0,
            not_before: 0,
            node,
            keyed: false,
            once: false,
            stale: false,
            what,
        })
    }

    fn draw_operation(
        &self,
        client: usize,
        topics: &mut u32,
        pause: u64,
        not_before: u64,
        rng: &mut SeededRng,
    ) -> Operation {
        let what = self.draw_what(client, topics, rng);
        Operation {
            pause,
            not_before,
            node: if !self.rushes.is_empty() && rng.random_bool(0.5) {
                LEADER
            } else {
                rng.random_range(1..=self.nodes)
            },
            keyed: rng.random_range(0..100) < self.keyed,
            once: false,
            stale: rng.random_range(0..100) < self.stale,
            what,
        }
    }

    fn draw_what(&self, client: usize, topics: &mut u32, rng: &mut SeededRng) -> What {
        let total: u32 = self.weights.iter().sum();
        let mut ticket = rng.random_range(0..total.max(1));
        let family = self.weights.iter().position(|weight| match ticket.checked_sub(*weight) {
            Some(left) => {
                ticket = left;
                false
            }
            None => true,
        });
        let broker = 1 + zipf(rng, self.brokers);
        let own = TOPICS_PER_CLIENT * u32::try_from(client).unwrap_or(0);
        match family.unwrap_or(0) {
            0 if rng.random_range(0..8) == 0 => What::CreateTopic(zipf(rng, 16)),
            0 => {
                *topics += 1;
                What::CreateTopic(own + *topics)
            }
            1 => What::CreatePartition {
                topic: own + rng.random_range(0..=*topics),
                number: zipf(rng, 4),
                replicas: (0..rng.random_range(0..3))
                    .map(|step| (broker + step - 1) % self.brokers + 1)
                    .collect(),
            },
            2 if rng.random_range(0..3) == 0 => What::CloseBroker(broker),
            2 => What::RegisterBroker { broker, port: rng.random_range(1..=u16::MAX) },
            3 => What::UpdateBroker {
                broker,
                port: rng.random_bool(0.8).then(|| rng.random_range(1..=u16::MAX)),
                fenced: (rng.random_range(0..4) == 0).then(|| rng.random_bool(0.5)),
                guarded: rng.random_range(0..4) == 0,
            },
            4 => What::RegisterProducer(broker),
            5 => match rng.random_range(0..8) {
                0 => What::ActiveBrokers,
                1..4 => What::ReadBroker(broker),
                4 => What::ReadTopic(zipf(rng, 16)),
                // Mostly a recent one of whichever client: what was just acknowledged is what a stale leader
                // does not know.
                _ => {
                    let other =
                        rng.random_range(0..u32::try_from(self.clients).unwrap_or(1).max(1));
                    let back = rng.next_u64().trailing_zeros();
                    What::ReadTopic(TOPICS_PER_CLIENT * other + topics.saturating_sub(back))
                }
            },
            6 => What::Poll { brokers: rng.random_bool(0.5), diff: rng.random_bool(0.85) },
            7 => What::Repeat(zipf(rng, 20)),
            _ => What::Bad(rng.random_range(0..8)),
        }
    }
}
