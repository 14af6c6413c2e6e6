//! A snapshot or a diff as JSON, a piece at a time: a node holds a page of text for each poller and not the whole answer, which
//! may be as long as the metadata is large. What the pages show is frozen when they are begun, and costs nothing to freeze.

use std::vec;

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::http::turns::Turns;
use crate::metadata::{
    DeletedBroker, Diff, Fields, Image, Position, Record, Records, RegisterBrokerRecord, Timestamp,
};

/// Bytes of a page, the last record of which may exceed it.
const PAGE_BYTES: usize = 64 << 10;

/// What is left of an answer: members, of lists, of records.
pub(super) struct Pages {
    /// What the next page begins with.
    begun: Vec<u8>,
    members: vec::IntoIter<(&'static str, Lists)>,
    /// Those of the member that is being written.
    lists: Option<vec::IntoIter<(&'static str, List)>>,
    /// The one that is being written.
    list: Option<List>,
    /// Whether something stands before what comes next, to be set off from it.
    preceded: bool,
    over: bool,
}

type Lists = Vec<(&'static str, List)>;

enum List {
    Records(Records),
    Deleted(vec::IntoIter<DeletedBroker>),
}

impl List {
    fn next(&mut self) -> Option<Item> {
        match self {
            Self::Records(records) => records.next().map(Item::Record),
            Self::Deleted(brokers) => brokers.next().map(Item::Deleted),
        }
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Item {
    Record(Record),
    Deleted(DeletedBroker),
}

fn lists(records: Vec<(&'static str, Records)>) -> Lists {
    records.into_iter().map(|(name, records)| (name, List::Records(records))).collect()
}

impl Pages {
    /// `{"snapshot":KIND,"offset":OFFSET,"history":HISTORY,"records":IMAGE}`.
    pub(super) fn of_image(
        kind: &str,
        offset: Timestamp,
        position: Option<Position>,
        image: &Image<'_>,
    ) -> Result<Self, serde_json::Error> {
        Self::new(kind, offset, position, vec![("records", lists(image.lists()))])
    }

    /// ```text
    /// {"snapshot":"diff","offset":OFFSET,"history":HISTORY,
    ///  "deleted":{NAME:[BROKER…]},"upserted":{NAME:[RECORD…]…}}
    /// ```
    ///
    /// Empty lists are left out. `deleted` comes first, as it is to be applied first.
    pub(super) fn of_diff(
        offset: Timestamp,
        position: Option<Position>,
        diff: Diff,
    ) -> Result<Self, serde_json::Error> {
        let Diff { upserted, deleted } = diff;
        let deleted = (!deleted.is_empty())
            .then(|| (RegisterBrokerRecord::NAME, List::Deleted(deleted.into_iter())));
        let deleted = deleted.into_iter().collect();
        let members = vec![("deleted", deleted), ("upserted", lists(upserted))];
        Self::new("diff", offset, position, members)
    }

    /// `{"snapshot":KIND,"offset":OFFSET,"history":HISTORY`, and the members.
    fn new(
        kind: &str,
        offset: Timestamp,
        position: Option<Position>,
        members: Vec<(&'static str, Lists)>,
    ) -> Result<Self, serde_json::Error> {
        let mut begun = Vec::with_capacity(PAGE_BYTES / 16);
        begun.extend_from_slice(b"{\"snapshot\":");
        serde_json::to_writer(&mut begun, kind)?;
        begun.extend_from_slice(b",\"offset\":");
        serde_json::to_writer(&mut begun, &offset)?;
        if let Some(Position { history, .. }) = position {
            begun.extend_from_slice(b",\"history\":");
            serde_json::to_writer(&mut begun, &history.to_string())?;
        }
        let members = members.into_iter();
        Ok(Self { begun, members, lists: None, list: None, preceded: true, over: false })
    }

    /// The pages as the body of an answer, each written in a turn of its own; in one piece if there is only one.
    pub(super) async fn body(mut self, turns: Turns) -> Result<Body, serde_json::Error> {
        let first = turns.take(|| self.next()).await.transpose()?.unwrap_or_default();
        if self.over {
            return Ok(first.into());
        }
        let rest = stream::unfold((self, turns), |(mut pages, turns)| async {
            let page = turns.take(|| pages.next()).await?;
            Some((page, (pages, turns)))
        });
        // Whoever compresses it asks once more after the end.
        Ok(Body::from_stream(stream::iter([Ok(first)]).chain(rest).fuse()))
    }

    fn write(&mut self, page: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        while page.len() < PAGE_BYTES && !self.over {
            let next = self.take();
            if self.preceded && matches!(next, Next::Item(_) | Next::List(..) | Next::Member(..)) {
                page.push(b',');
            }
            self.preceded = !matches!(next, Next::List(..) | Next::Member(..));
            match next {
                Next::Item(item) => serde_json::to_writer(&mut *page, &item)?,
                Next::List(name, list) => {
                    serde_json::to_writer(&mut *page, name)?;
                    page.extend_from_slice(b":[");
                    self.list = Some(list);
                }
                Next::ListEnds => {
                    page.push(b']');
                    self.list = None;
                }
                Next::Member(name, lists) => {
                    serde_json::to_writer(&mut *page, name)?;
                    page.extend_from_slice(b":{");
                    self.lists = Some(lists.into_iter());
                }
                Next::MemberEnds => {
                    page.push(b'}');
                    self.lists = None;
                }
                Next::End => {
                    page.push(b'}');
                    self.over = true;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Next {
        if let Some(list) = &mut self.list {
            list.next().map_or(Next::ListEnds, Next::Item)
        } else if let Some(lists) = &mut self.lists {
            lists.next().map_or(Next::MemberEnds, |(name, list)| Next::List(name, list))
        } else {
            self.members.next().map_or(Next::End, |(name, lists)| Next::Member(name, lists))
        }
    }
}

/// What is to be written next.
enum Next {
    Item(Item),
    List(&'static str, List),
    ListEnds,
    Member(&'static str, Lists),
    MemberEnds,
    End,
}

impl Iterator for Pages {
    type Item = Result<Bytes, serde_json::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let mut page = std::mem::take(&mut self.begun);
        let written = self.write(&mut page);
        // Whoever reads on after an error would read nonsense.
        self.over |= written.is_err();
        Some(written.map(|()| page.into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metadata::{
        Audience, BrokerId, Change, Command, CreateTopic, SnapshotKind, State, Uuid,
    };

    /// A state with so many topics.
    fn state(topics: u128) -> State {
        let mut state = State::new();
        for topic in 0..topics {
            let name = format!("topic-{topic}").parse().unwrap();
            let change = Change::CreateTopic(CreateTopic { uuid: Uuid::from_u128(topic), name });
            let clock = Timestamp::from_micros(u64::try_from(topic).unwrap());
            state.apply(&Command { clock, idempotency: None, change });
        }
        state
    }

    fn pages(state: &State, kind: SnapshotKind, audience: Audience) -> Vec<Bytes> {
        let image = state.image(kind, audience);
        let pages = Pages::of_image("a kind", state.last_stamp(), None, &image).unwrap();
        pages.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn pages_are_what_the_image_is_and_none_is_long() {
        for topics in [0, 1, 2, 2_000] {
            let state = state(topics);
            for kind in [SnapshotKind::Current, SnapshotKind::Complete] {
                for audience in [Audience::Broker, Audience::Client] {
                    let pages = pages(&state, kind, audience);
                    assert!(pages.iter().all(|page| page.len() < PAGE_BYTES + 1_000));
                    assert_eq!(pages.len() > 3, topics == 2_000);
                    let text = pages.concat();
                    let records = serde_json::to_string(&state.image(kind, audience)).unwrap();
                    let offset = serde_json::to_string(&state.last_stamp()).unwrap();
                    let head = format!("{{\"snapshot\":{},\"offset\":{offset}", json!("a kind"));
                    let expected = format!("{head},\"records\":{records}}}");
                    assert_eq!(String::from_utf8(text).unwrap(), expected);
                }
            }
        }
    }

    #[test]
    fn a_long_diff_is_told_in_pages_too() {
        let broker = |n| DeletedBroker {
            broker_id: BrokerId::try_from(n).unwrap(),
            uuid: Uuid::from_u128(u128::from(n)),
        };
        let state = state(2_000);
        for (since, deleted, pages_min) in
            [(0, 0, 4), (1_998, 0, 1), (2_000, 1, 1), (2_000, 2_000, 3)]
        {
            let since = Timestamp::from_micros(since);
            let deleted: Vec<_> = (0..deleted).map(broker).collect();
            let mut diff = state.diff_since(since, Audience::Client).unwrap();
            diff.deleted.clone_from(&deleted);
            let pages: Vec<_> = Pages::of_diff(state.last_stamp(), None, diff).unwrap().collect();
            assert!(pages.len() >= pages_min);
            let pages = pages.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
            assert!(pages.iter().all(|page| page.len() < PAGE_BYTES + 1_000));
            let upserted = state.changes_since(since, Audience::Client).unwrap().upserted;
            let names = |name: &str, list: serde_json::Value| match list.as_array() {
                Some(list) if list.is_empty() => json!({}),
                _ => json!({ name: list }),
            };
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&pages.concat()).unwrap(),
                json!({
                    "snapshot": "diff",
                    "offset": state.last_stamp(),
                    "deleted": names("RegisterBrokerRecord", json!(deleted)),
                    "upserted": names("TopicRecord", json!(upserted)),
                })
            );
        }
    }
}
