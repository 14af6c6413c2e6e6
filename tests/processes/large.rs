//! Answers that are longer than a page.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use serde_json::{Value, json};

use super::client::{Connection, PATIENCE, Request, Response};
use super::cluster::Cluster;
use super::{scratch_dir, yakt};

/// So many that all of them are more than the buffers of a socket hold that nobody reads, and more than are rendered in
/// one turn.
const TOPICS: usize = 12_000;

/// Connections that create them.
const CREATORS: usize = 16;

/// Topics with names as long as they may be.
fn create_topics(addr: SocketAddr) {
    thread::scope(|scope| {
        for creator in 0..CREATORS {
            scope.spawn(move || {
                let mut connection = Connection::open(addr, PATIENCE).expect("a connection");
                for number in (creator..TOPICS).step_by(CREATORS) {
                    let topic = json!({"name": format!("{number:x>249}")});
                    let answer = connection.send(&Request::post("/create_topic", &topic));
                    answer.expect("an answer").expect(201);
                }
            });
        }
    });
}

/// All topics of an answer, by name.
fn names(topics: &Value) -> Vec<String> {
    let topics = topics.as_array().expect("a list").iter();
    let mut names: Vec<_> =
        topics.map(|topic| topic["fields"]["name"].as_str().expect("a name").to_owned()).collect();
    names.sort_unstable();
    names
}

fn ask(addr: SocketAddr, path: &str, encoding: &str) -> Response {
    let answer = Request::get(path).header("accept-encoding", encoding).ask(addr);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

#[test]
fn long_answers_come_in_pieces_compressed_if_asked_and_whoever_reads_slowly_holds_up_nobody() {
    let cluster = Cluster::start(yakt(), scratch_dir(), 1);
    let addr = cluster.addrs()[0];
    let since = Request::get("/client_mgmt/0").ask(addr).expect(200)["offset"].clone();
    create_topics(addr);

    // Nothing moves cluster time meanwhile: the answers are the same to the byte.
    let path = "/broker_mgmt/0?consistency=stale";
    // They ask for everything, and read nothing of it.
    let stalled: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(addr).expect("a connection");
            let head = format!("GET {path} HTTP/1.1\r\nhost: {addr}\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();

    let plain = ask(addr, path, "identity");
    assert_eq!(plain.header("transfer-encoding"), Some("chunked"));
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(names(&plain.json()["records"]["TopicRecord"]).len(), TOPICS);

    let gzip = ask(addr, path, "gzip");
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&gzip.body[..]).read_to_end(&mut text).expect("gzip");
    assert!(text == plain.body, "gzip changed the answer");

    let zstd = ask(addr, path, "zstd");
    assert_eq!(zstd.header("content-encoding"), Some("zstd"));
    assert!(zstd::decode_all(&zstd.body[..]).expect("zstd") == plain.body, "zstd changed it");

    let diff = ask(addr, &format!("/client_mgmt/{since}?mode=diff"), "identity").json();
    assert_eq!(diff["snapshot"], "diff");
    let all = names(&plain.json()["records"]["TopicRecord"]);
    assert!(names(&diff["upserted"]["TopicRecord"]) == all, "the diff has other topics");
    drop(stalled);
}
