//! The real binary over real sockets: dev, run, restart, kill -9, reload, refusal.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A process of ours that ends with the test.
struct Semel {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Semel {
    fn start(folder: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
        command.current_dir(folder).args(args).env_remove("SEMEL_CONFIG");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// The rest of the first line of standard error that has `mark`, behind it. Ends with the process at the latest.
    fn wait_for(&mut self, mark: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {mark:?} in:\n{seen}");
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
            seen += &line;
        }
    }

    /// Where the gateway listens, from its log.
    fn address(&mut self) -> SocketAddr {
        self.addresses().0
    }

    /// Where the gateway and its admin API listen.
    fn addresses(&mut self) -> (SocketAddr, SocketAddr) {
        let rest = self.wait_for("\"message\":\"serving\",\"http\":\"");
        let (http, rest) = rest.split_once("\",\"admin\":\"").unwrap();
        (http.parse().unwrap(), rest.split('"').next().unwrap().parse().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(mut self, signal: Signal) -> (Option<i32>, String, String) {
        self.signal(signal);
        self.exit()
    }

    fn exit(&mut self) -> (Option<i32>, String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        self.stderr.read_to_string(&mut err).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code(), out, err)
    }
}

impl Drop for Semel {
    fn drop(&mut self) {
        // Already gone when all went well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One request on a connection of its own; the whole answer.
fn call(address: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n").unwrap();
    write!(stream, "content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn pay(address: SocketAddr, path: &str, key: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer t\r\n");
    write!(stream, "{head}idempotency-key: {key}\r\ncontent-length: 2\r\n\r\n10").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[expect(clippy::disallowed_methods, reason = "a test writes its own files")]
fn write_config(folder: &Path, upstream: SocketAddr, more: &str) {
    let text = format!(
        r#"
listen = {{ http = "127.0.0.1:0", admin = "127.0.0.1:0" }}
ledger.embedded = {{ path = "data", disk_reserve = "1MiB" }}
log.format = "json"

[upstream.demo]
urls = ["http://{upstream}"]

[[route]]
match  = "POST /pay"
to     = "demo"
effect = "once"
{more}
"#
    );
    std::fs::write(folder.join("semel.toml"), text).unwrap();
}

/// A demo upstream, and a folder with a configuration for it.
fn demo(lose: &str) -> (Semel, SocketAddr, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = Semel::start(folder.path(), &["demo", "--listen", "127.0.0.1:0", "--lose", lose]);
    let rest = demo.wait_for("a payment service on http://");
    let address = rest.split(':').take(2).collect::<Vec<_>>().join(":").parse().unwrap();
    write_config(folder.path(), address, "");
    (demo, address, folder)
}

#[track_caller]
fn has(answer: &str, parts: &[&str]) {
    for part in parts {
        assert!(answer.contains(part), "{part:?} is not in:\n{answer}");
    }
}

#[test]
fn an_answer_survives_a_clean_stop_and_kill_9() {
    let (_demo, _, folder) = demo("0");
    let mut first = Semel::start(folder.path(), &["run"]);
    let address = first.address();
    has(&pay(address, "/pay", "a"), &["201 Created", "semel-effect: committed", "\"charge\":1"]);
    let (code, _, err) = first.end(Signal::TERM);
    assert_eq!(code, Some(0), "{err}");

    let mut second = Semel::start(folder.path(), &["run"]);
    let address = second.address();
    has(&pay(address, "/pay", "a"), &["201 Created", "idempotent-replayed: true", "\"charge\":1"]);
    has(&pay(address, "/pay", "b"), &["201 Created", "\"charge\":2"]);
    second.end(Signal::KILL);

    let mut third = Semel::start(folder.path(), &["run"]);
    let address = third.address();
    has(&pay(address, "/pay", "b"), &["201 Created", "idempotent-replayed: true", "\"charge\":2"]);
    let (code, _, err) = third.end(Signal::INT);
    assert_eq!(code, Some(0), "{err}");
}

#[test]
fn a_lost_reply_is_held_and_never_charged_again() {
    let (_demo, upstream, folder) = demo("1");
    let mut semel = Semel::start(folder.path(), &["run"]);
    let address = semel.address();
    has(&pay(address, "/pay", "a"), &["504 ", "semel-effect: unknown", "outcome-unknown"]);
    has(&pay(address, "/pay", "a"), &["409 ", "outcome-unknown"]);
    has(&call(upstream, "GET /charges", ""), &["{\"charges\":1}"]);
    semel.end(Signal::TERM);
}

#[test]
fn two_processes_never_share_a_ledger() {
    let (_demo, _, folder) = demo("0");
    let mut first = Semel::start(folder.path(), &["run"]);
    first.address();
    let (code, _, err) = Semel::start(folder.path(), &["run"]).exit();
    assert_eq!(code, Some(4));
    has(&err, &["error[SM0101]"]);
    let (code, out, _) = Semel::start(folder.path(), &["check"]).exit();
    assert_eq!(code, Some(0));
    has(&out, &["in use by a running gateway"]);
    first.end(Signal::TERM);
    let (code, out, _) = Semel::start(folder.path(), &["ledger", "verify"]).exit();
    assert_eq!(code, Some(0), "{out}");
}

#[test]
fn a_reload_changes_routes_and_a_bad_file_changes_nothing() {
    let (_demo, upstream, folder) = demo("0");
    let mut semel = Semel::start(folder.path(), &["run"]);
    let address = semel.address();
    has(&call(address, "GET /charges", ""), &["404 "]);

    let more = "[[route]]\nmatch = \"GET /charges\"\nto = \"demo\"\neffect = \"read\"";
    write_config(folder.path(), upstream, more);
    semel.signal(Signal::HUP);
    semel.wait_for("configuration loaded again");
    has(&call(address, "GET /charges", ""), &["200 OK"]);

    write_config(folder.path(), upstream, "effekt = 1");
    semel.signal(Signal::HUP);
    semel.wait_for("configuration refused, the old one stays");
    has(&call(address, "GET /charges", ""), &["200 OK"]);

    write_config(folder.path(), upstream, "idempotency = { principal = \"none\" }");
    semel.signal(Signal::HUP);
    has(&semel.wait_for("configuration refused, the old one stays"), &["principal was \\\"credential\\\""]);
    has(&call(address, "GET /charges", ""), &["200 OK"]);
    has(&pay(address, "/pay", "a"), &["201 Created"]);
    semel.end(Signal::TERM);
}

#[test]
fn a_gateway_that_drains_loads_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    write_config(folder.path(), upstream.local_addr().unwrap(), "");
    let mut semel = Semel::start(folder.path(), &["run"]);
    let (address, admin) = semel.addresses();
    let caller = std::thread::spawn(move || pay(address, "/pay", "a"));
    // The call is under way, and its answer is ours to give.
    let (connection, _) = upstream.accept().unwrap();
    semel.signal(Signal::TERM);
    semel.wait_for("draining");
    let (code, _, err) = Semel::start(folder.path(), &["reload", "--admin", &admin.to_string()]).exit();
    assert_eq!(code, Some(7), "{err}");
    has(&err, &["error[SM0307]", "draining"]);
    drop(connection);
    has(&caller.join().unwrap(), &["semel-effect: unknown"]);
    assert_eq!(semel.exit().0, Some(0));
}

#[test]
fn a_changed_contract_is_refused_at_start_unless_told_why() {
    let (_demo, upstream, folder) = demo("0");
    let mut semel = Semel::start(folder.path(), &["run"]);
    semel.address();
    semel.end(Signal::TERM);

    write_config(folder.path(), upstream, "idempotency = { principal = \"none\" }");
    let (code, _, err) = Semel::start(folder.path(), &["run"]).exit();
    assert_eq!(code, Some(3), "{err}");
    has(&err, &["error[SM0012]", "principal was \"credential\" and is now \"none\""]);

    let mut semel = Semel::start(folder.path(), &["run", "--migrate-contracts", "a test"]);
    semel.address();
    semel.end(Signal::TERM);
    let mut semel = Semel::start(folder.path(), &["run"]);
    semel.address();
    semel.end(Signal::TERM);
}

#[test]
fn an_operator_decides_about_unknown_effects() {
    let (_demo, upstream, folder) = demo("1");
    let mut semel = Semel::start(folder.path(), &["run"]);
    let (address, admin) = semel.addresses();
    let id =
        |answer: &str| answer.split_once("semel-effect-id: ").unwrap().1.split_whitespace().next().unwrap().to_owned();
    let (executed, not_executed) = (id(&pay(address, "/pay", "a")), id(&pay(address, "/pay", "b")));
    let admin = admin.to_string();
    let operate = |args: &[&str]| {
        let args = [args, &["--admin", &admin]].concat();
        Semel::start(folder.path(), &args).exit()
    };
    let (code, out, err) = operate(&["effects", "list", "--state", "unknown"]);
    assert_eq!(code, Some(0), "{err}");
    has(&out, &[&executed, &not_executed, "connection-lost", "demo"]);

    let settle =
        ["effects", "settle", &executed, "--status", "201", "--body", "paid by hand", "--reason", "seen in the books"];
    let (code, _, err) = operate(&settle);
    assert_eq!(code, Some(0), "{err}");
    has(&err, &["settle ef_", "unknown since", "(connection-lost), scope demo", "seen in the books"]);
    has(&err, &["duplicates get status 201 from now on"]);
    has(&pay(address, "/pay", "a"), &["201 Created", "idempotent-replayed: true", "paid by hand"]);

    let (code, _, err) = operate(&["effects", "release", &not_executed, "--fence", "99999", "--reason", "a test"]);
    assert_eq!(code, Some(7), "a claim that nobody saw: {err}");
    let (code, _, err) = operate(&["effects", "release", &not_executed, "--reason", "the books say no"]);
    assert_eq!(code, Some(0), "{err}");
    // The key is usable again, and this upstream knows it.
    has(&pay(address, "/pay", "b"), &["201 Created", "\"charge\":2"]);
    has(&call(upstream, "GET /charges", ""), &["{\"charges\":2}"]);

    let metrics = call(admin.parse().unwrap(), "GET /metrics", "");
    has(&metrics, &["200 OK", "semel_", "POST /pay", "# EOF"]);
    has(&call(admin.parse().unwrap(), "GET /readyz", ""), &["200 OK", "\"ready\":true"]);
    has(&operate(&["effects", "show", &executed, "--body"]).1, &["settled", "paid by hand", "seen in the books"]);
    has(
        &operate(&["effects", "audit"]).1,
        &["NUMBER", "settled", "operator: seen in the books (status 201", "the books say no"],
    );
    has(&operate(&["effects", "audit", "--json", "--after", "1"]).1, &["{\"at\":", "\"kind\":\"released\""]);
    let (code, _, err) = operate(&["effects", "show", "ef_00000000000000000000000000"]);
    assert_eq!(code, Some(6), "{err}");
    let (code, _, err) = operate(&["reload"]);
    assert_eq!(code, Some(0), "{err}");
    semel.end(Signal::TERM);
    let (code, _, err) = operate(&["effects", "list"]);
    assert_eq!(code, Some(1));
    has(&err, &["error[SM0305]"]);
}

#[test]
fn the_command_line_needs_a_sound_token_only_for_what_needs_one() {
    let (_demo, _, folder) = demo("1");
    let mut semel = Semel::start(folder.path(), &["run"]);
    let (address, admin) = semel.addresses();
    has(&pay(address, "/pay", "a"), &["504 Gateway Timeout"]);
    let admin = admin.to_string();
    let operate = |args: &[&str]| Semel::start(folder.path(), &[args, &["--admin", &admin]].concat()).exit();
    let out = operate(&["effects", "list"]).1;
    let id = out.split_whitespace().find(|word| word.starts_with("ef_")).unwrap();
    let release = ["effects", "release", id, "--reason", "a test"];
    let token = folder.path().join("data/admin.token");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, err) = operate(&release);
    assert_eq!(code, Some(7), "{err}");
    has(&err, &["error[SM0301]", "0644"]);
    assert_eq!(operate(&["effects", "list"]).0, Some(0));
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let other = folder.path().join("other.token");
    std::fs::copy(&token, &other).unwrap();
    std::fs::OpenOptions::new().write(true).open(&other).unwrap().write_all(b"0000000000").unwrap();
    let (code, _, err) = operate(&[&release[..], &["--token-file", "other.token"]].concat());
    assert_eq!(code, Some(7), "{err}");
    has(&err, &["error[SM0306]"]);
    let (code, _, err) = operate(&release[..3]);
    assert_eq!(code, Some(2), "a change says why");
    has(&err, &["--reason <REASON>"]);
    assert_eq!(operate(&release).0, Some(0));
}

#[test]
fn an_upstream_settles_its_own_effect() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), upstream.local_addr().unwrap(), "");
    // It takes one request, says nothing, and hangs up.
    let silent = std::thread::spawn(move || {
        let request = BufReader::new(upstream.accept().unwrap().0).lines();
        request.map(Result::unwrap).take_while(|line| !line.is_empty()).collect::<Vec<_>>()
    });
    let mut semel = Semel::start(folder.path(), &["run"]);
    let (address, admin) = semel.addresses();
    has(&pay(address, "/pay", "a"), &["504 Gateway Timeout", "semel-effect: unknown"]);
    let request = silent.join().unwrap();
    let header = |name: &str| request.iter().find_map(|line| line.strip_prefix(name)).unwrap();
    let (id, token) = (header("semel-effect-id: "), header("semel-settlement: "));
    let tell = |token: &str| {
        let head = format!("POST /v1/effects/{id}/outcome HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n");
        let body = r#"{"effect":"committed","status":201,"body":"told later"}"#;
        let mut stream = TcpStream::connect(admin).unwrap();
        write!(stream, "{head}semel-settlement: {token}\r\ncontent-type: application/json\r\n").unwrap();
        write!(stream, "content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    has(&tell(&token.replace('.', ".A")), &["401 Unauthorized", "settlement-token-wrong"]);
    has(&tell(token), &["200 OK", "\"result\":\"applied\""]);
    has(&pay(address, "/pay", "a"), &["201 Created", "idempotent-replayed: true", "told later"]);
}

#[test]
fn dev_shows_each_effect_and_sums_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Semel::start(folder.path(), &["dev", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let data = dev.wait_for("data in ").split(',').next().unwrap().to_owned();
    assert!(Path::new(&data).is_dir());
    let rest = dev.wait_for("gateway  http://");
    let address = rest.split_whitespace().next().unwrap().parse().unwrap();
    for key in ["a1", "a1", "a2", "a3"] {
        has(&pay(address, "/pay", key), &["201 Created"]);
    }
    dev.signal(Signal::HUP);
    has(&dev.wait_for("configuration refused"), &["SM0307"]);
    let (code, out, err) = dev.end(Signal::INT);
    assert_eq!(code, Some(0));
    has(&out, &["POST /pay  a1  executed  201  attempts=1  charges=1", "a1  replayed  201  attempts=0  charges=1"]);
    has(&out, &["a3  executed  201  attempts=2  charges=1"]);
    has(&err, &["4 calls, 3 effects, 1 replayed, 0 duplicates."]);
    assert!(!Path::new(&data).exists(), "the data is gone");
}

#[test]
fn dev_rehearses_failures_and_still_charges_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["dev", "--chaos", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut dev = Semel::start(folder.path(), &args);
    let rest = dev.wait_for("gateway  http://");
    let address = rest.split_whitespace().next().unwrap().parse().unwrap();
    dev.wait_for("chaos    ");
    for n in 0..30 {
        // A caller that gets anything else comes again, with the same key.
        let charged = (0..20).any(|_| pay(address, "/pay", &format!("k{n}")).starts_with("HTTP/1.1 201"));
        assert!(charged, "k{n}");
    }
    let (code, out, err) = dev.end(Signal::INT);
    assert_eq!(code, Some(0));
    has(&err, &["injecting a fault", ", 0 duplicates."]);
    assert!(!out.contains("charges=2"), "{out}");
}

#[test]
fn people_see_what_it_does_and_who_is_limited() {
    let (_demo, upstream, folder) = demo("0");
    write_config(folder.path(), upstream, "rate = { limit = \"2/h\" }");
    let mut semel = Semel::start(folder.path(), &["run"]);
    let (address, admin) = semel.addresses();
    let admin = admin.to_string();
    let operate = |args: &[&str]| Semel::start(folder.path(), &[args, &["--admin", &admin]].concat()).exit();
    has(&operate(&["limits"]).2, &["nobody is over a limit"]);
    for (key, status) in [("a", "201"), ("b", "201"), ("c", "429"), ("d", "429")] {
        has(&pay(address, "/pay", key), &[&format!("HTTP/1.1 {status}"), "ratelimit-policy: \"caller\";q=2;w=3600"]);
    }
    let (code, out, err) = operate(&["limits"]);
    assert_eq!(code, Some(0), "{err}");
    has(&out, &["WHO", "credential ", "       2         0", "caller", "POST /pay"]);
    has(&operate(&["limits", "--json"]).1, &["\"refused\":2"]);
    let (code, out, err) = operate(&["top", "--once", "--interval", "1"]);
    assert_eq!(code, Some(0), "{err}");
    has(&out, &["ROUTE", "POST /pay", "UPSTREAM", "demo", "serving"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let (code, out, err) = Semel::start(elsewhere.path(), &["limits", "--admin", &admin]).exit();
    assert_eq!((code, err.as_str()), (Some(0), ""), "who only looks needs no file");
    has(&out, &["credential "]);
    let (code, _, err) = Semel::start(folder.path(), &["top", "--once", "--admin", "127.0.0.1:1"]).exit();
    assert_eq!(code, Some(1));
    has(&err, &["cannot be asked"]);
}
