//! A snapshot or a diff as JSON, a piece at a time: a node holds a page of text for each poller and not the whole answer, which
//! may be as long as the metadata is large. What the pages show is frozen when they are begun, and costs nothing to freeze.

use std::collections::BTreeMap;
use std::vec;

use axum::body::{Body, Bytes};
use futures_util::{StreamExt, stream};

use crate::http::turns::Turns;
use crate::metadata::{Diff, Fields, Image, Record, Records, RegisterBrokerRecord, Timestamp};

/// Bytes of a page, the last record of which may exceed it.
const PAGE_BYTES: usize = 64 << 10;

/// What is left of an answer.
pub(super) struct Pages {
    /// What the next page begins with.
    begun: Vec<u8>,
    lists: vec::IntoIter<(&'static str, Records)>,
    /// The list that is being written.
    list: Option<Records>,
    /// Whether something stands before what comes next, to be set off from it.
    preceded: bool,
    /// What stands behind the lists.
    end: Vec<u8>,
    over: bool,
}

impl Pages {
    /// `{"snapshot":KIND,"offset":OFFSET,"records":IMAGE}`.
    pub(super) fn of_image(
        kind: &str,
        offset: Timestamp,
        image: &Image<'_>,
    ) -> Result<Self, serde_json::Error> {
        Self::new(kind, offset, "records", image.lists(), b"}}".to_vec())
    }

    /// `{"snapshot":"diff","offset":OFFSET,"upserted":{NAME:[RECORD…]},"deleted":{NAME:[BROKER…]}}`, without empty lists.
    pub(super) fn of_diff(offset: Timestamp, diff: Diff) -> Result<Self, serde_json::Error> {
        let Diff { upserted, deleted } = diff;
        let deleted = (!deleted.is_empty()).then_some((RegisterBrokerRecord::NAME, deleted));
        let mut end = b"},\"deleted\":".to_vec();
        serde_json::to_writer(&mut end, &BTreeMap::from_iter(deleted))?;
        end.push(b'}');
        Self::new("diff", offset, "upserted", upserted, end)
    }

    /// `{"snapshot":KIND,"offset":OFFSET,MEMBER:{NAME:[RECORD…]…`, and the end.
    fn new(
        kind: &str,
        offset: Timestamp,
        member: &str,
        lists: Vec<(&'static str, Records)>,
        end: Vec<u8>,
    ) -> Result<Self, serde_json::Error> {
        let mut begun = Vec::with_capacity(PAGE_BYTES / 16);
        begun.extend_from_slice(b"{\"snapshot\":");
        serde_json::to_writer(&mut begun, kind)?;
        begun.extend_from_slice(b",\"offset\":");
        serde_json::to_writer(&mut begun, &offset)?;
        begun.push(b',');
        serde_json::to_writer(&mut begun, member)?;
        begun.extend_from_slice(b":{");
        let lists = lists.into_iter();
        Ok(Self { begun, lists, list: None, preceded: false, end, over: false })
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
            let next = match &mut self.list {
                Some(list) => list.next().map_or(Next::ListEnds, Next::Record),
                None => self.lists.next().map_or(Next::End, |(name, list)| Next::List(name, list)),
            };
            if self.preceded && matches!(next, Next::Record(_) | Next::List(..)) {
                page.push(b',');
            }
            self.preceded = !matches!(next, Next::List(..));
            match next {
                Next::Record(record) => serde_json::to_writer(&mut *page, &record)?,
                Next::List(name, list) => {
                    serde_json::to_writer(&mut *page, name)?;
                    page.extend_from_slice(b":[");
                    self.list = Some(list);
                }
                Next::ListEnds => {
                    page.push(b']');
                    self.list = None;
                }
                Next::End => {
                    page.append(&mut self.end);
                    self.over = true;
                }
            }
        }
        Ok(())
    }
}

/// What is to be written next.
enum Next {
    Record(Record),
    List(&'static str, Records),
    ListEnds,
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
    use crate::metadata::{Audience, Change, Command, CreateTopic, SnapshotKind, State, Uuid};

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
        let pages = Pages::of_image("a kind", state.last_stamp(), &image).unwrap();
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
        let state = state(2_000);
        for (since, pages_min) in [(0, 4), (1_998, 1), (2_000, 1)] {
            let since = Timestamp::from_micros(since);
            let diff = state.diff_since(since, Audience::Client).unwrap();
            let pages: Vec<_> = Pages::of_diff(state.last_stamp(), diff).unwrap().collect();
            assert!(pages.len() >= pages_min);
            let pages = pages.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
            assert!(pages.iter().all(|page| page.len() < PAGE_BYTES + 1_000));
            let changes = state.changes_since(since, Audience::Client).unwrap().upserted;
            let names =
                if changes.is_empty() { json!({}) } else { json!({"TopicRecord": changes}) };
            let offset = state.last_stamp();
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&pages.concat()).unwrap(),
                json!({"snapshot": "diff", "offset": offset, "upserted": names, "deleted": {}})
            );
        }
    }
}
