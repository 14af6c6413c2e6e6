//! A name service that can fall silent, for the tests in [`machines`](super::machines).

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes before the question of a DNS message (RFC 1035 §4.1.1).
const HEADER_BYTES: usize = 12;

/// The type of a question for an IPv4 address.
const TYPE_A: [u8; 2] = [0, 1];

/// A DNS server on 127.0.0.1:53. Every name has the address 127.0.0.1, and no IPv6 address.
pub(crate) struct NameServer {
    silent: Arc<AtomicBool>,
    questions: Arc<AtomicU64>,
}

impl NameServer {
    /// Starts the server, and makes it the only one that this mount namespace's processes ask. Its
    /// thread ends with the process.
    pub(crate) fn start(directory: &Path) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).expect("port 53");
        let server = Self { silent: Arc::default(), questions: Arc::default() };
        let (silent, questions) = (Arc::clone(&server.silent), Arc::clone(&server.questions));
        std::thread::spawn(move || {
            let mut message = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut message) {
                questions.fetch_add(1, Ordering::Relaxed);
                if silent.load(Ordering::Relaxed) {
                    continue;
                }
                if let Some(answer) = answer(&message[..length]) {
                    socket.send_to(&answer, client).expect("the loopback interface");
                }
            }
        });
        for (file, text) in [
            ("resolv.conf", "nameserver 127.0.0.1\noptions timeout:5 attempts:2\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ] {
            // Without the file, the resolver does by default as ours says.
            let theirs = Path::new("/etc").join(file);
            if !theirs.exists() {
                continue;
            }
            let ours = directory.join(file);
            std::fs::write(&ours, text).expect("a file");
            let mut mount = Command::new("mount");
            mount.arg("--bind").arg(ours).arg(theirs);
            assert!(mount.status().expect("mount exists").success(), "cannot mount {file}");
        }
        server
    }

    /// Answers no question, or every question, from now on.
    pub(crate) fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// Questions so far.
    pub(crate) fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }
}

/// The answer to `question`, a DNS message with one question.
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let name = question.get(HEADER_BYTES..)?.iter().position(|byte| *byte == 0)?;
    // The name, its end, the type and the class.
    let end = HEADER_BYTES + name + 1 + 4;
    let asked = question.get(HEADER_BYTES..end)?;
    let is_a = asked[name + 1..name + 3] == TYPE_A;
    let mut message = question[..2].to_vec();
    // A response without an error; recursion is desired and available. One question, at most one
    // answer.
    message.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    message.extend(asked);
    if is_a {
        // The name of the question, type A, class IN, valid for no time, four bytes.
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        message.extend(Ipv4Addr::LOCALHOST.octets());
    }
    Some(message)
}
