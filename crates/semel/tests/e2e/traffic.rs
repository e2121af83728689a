//! Callers as they are: they retry, race, hang up and reuse keys, at one gateway or at several.

use semel_testkit::client::{End, HangUp};
use semel_testkit::oracle::Reading;
use semel_testkit::plan::draw;
use semel_testkit::rig::{Caller, PATIENCE, PAYLOAD, Rig};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// Callers that work at a time.
const CALLERS: usize = 24;
/// Callers that race on one key.
const RACERS: usize = 64;
/// The body of a call that reuses a key for something else.
const OTHER_PAYLOAD: &str = r#"{"amount":999}"#;

/// What is called, and with which keys.
#[derive(Debug)]
pub(crate) struct Traffic {
    seed: u64,
    gateways: Vec<SocketAddr>,
    keys_max: usize,
    next: AtomicUsize,
    enough: AtomicBool,
}

/// The run's seed: given, or another in each run. Printed, so that it can be given.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("SEMEL_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    eprintln!("seed {seed} (SEMEL_SEED={seed} repeats the plan)");
    seed
}

/// How many keys: given, or the default.
pub(crate) fn keys(default: usize) -> usize {
    std::env::var("SEMEL_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(default)
}

impl Traffic {
    /// Calls of the gateways at these addresses, a caller's one after another at each in turn.
    pub(crate) fn new(seed: u64, gateways: Vec<SocketAddr>, keys_max: usize) -> Arc<Self> {
        Arc::new(Self { seed, gateways, keys_max, next: AtomicUsize::new(0), enough: AtomicBool::new(false) })
    }

    /// No new keys from now on.
    pub(crate) fn enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// The keys that were used so far.
    pub(crate) fn keys(&self) -> Vec<String> {
        let used = self.next.load(Ordering::Relaxed).min(self.keys_max);
        (0..used).map(|n| self.key(n)).collect()
    }

    fn key(&self, n: usize) -> String {
        format!("key-{}-{n}", self.seed)
    }

    fn next_key(&self) -> Option<String> {
        if self.enough.load(Ordering::Relaxed) {
            return None;
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        (n < self.keys_max).then(|| self.key(n))
    }

    /// Callers that take the keys one after another and do with each what the seed says, until there are no more.
    pub(crate) fn work(self: &Arc<Self>, rig: &Rig) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let traffic = Arc::clone(self);
            let mut caller = rig.caller_at(&self.gateways);
            let mut racers: Vec<Caller> = (0..RACERS).map(|n| self.racer(rig, n)).collect();
            callers.spawn(async move {
                while let Some(key) = traffic.next_key() {
                    racers = one_key(&mut caller, racers, &key, draw(traffic.seed, &key, u32::MAX)).await;
                }
            });
        }
        callers
    }

    /// Racers begin at different gateways.
    fn racer(&self, rig: &Rig, n: usize) -> Caller {
        let mut gateways = self.gateways.clone();
        let first = n % gateways.len();
        gateways.rotate_left(first);
        rig.caller_at(&gateways)
    }

    /// Faults stop; what is open must end, at most `lease` after its gateway died; then every key is asked once more at
    /// every gateway.
    pub(crate) async fn heal(&self, rig: &Rig, lease: Duration) {
        rig.upstream.heal();
        let mut caller = rig.caller_at(&self.gateways);
        let keys = self.keys();
        let mut open: HashSet<&String> = keys.iter().collect();
        let all_ended = async {
            while !open.is_empty() {
                let mut still = HashSet::new();
                for key in open.drain() {
                    let end = caller.call(key, PAYLOAD, HangUp::Never).await;
                    if Reading::of(&end).open() || !matches!(end, End::Answered(_)) {
                        still.insert(key);
                    }
                }
                open = still;
            }
        };
        // The rule `nothing_stays_open` tells which keys, if the bound is not kept.
        let _ = tokio::time::timeout(lease + PATIENCE, all_ended).await;
        rig.oracle.healed();
        let mut last_calls = JoinSet::new();
        for gateway in &self.gateways {
            let (mut caller, keys) = (rig.caller_at(&[*gateway]), keys.clone());
            last_calls.spawn(async move {
                for key in keys {
                    caller.call(&key, PAYLOAD, HangUp::Never).await;
                }
            });
        }
        last_calls.join_all().await;
    }
}

async fn one_key(caller: &mut Caller, racers: Vec<Caller>, key: &str, luck: u64) -> Vec<Caller> {
    let mut racers = racers;
    match luck % 100 {
        // All at once.
        0..2 => racers = race(racers, RACERS, key).await,
        2..20 => racers = race(racers, 4, key).await,
        20..40 => {
            let hang_ups = [HangUp::InRequest, HangUp::AfterRequest, HangUp::InAnswer];
            let hang_up = hang_ups[usize::try_from(luck / 100 % 3).unwrap_or(0)];
            caller.call(key, PAYLOAD, hang_up).await;
        }
        40..45 => {
            caller.call(key, PAYLOAD, HangUp::Never).await;
            caller.call(key, OTHER_PAYLOAD, HangUp::Never).await;
        }
        _ => {}
    }
    // A plain client: again while it knows nothing, a few times.
    for _ in 0..4 {
        let end = caller.call(key, PAYLOAD, HangUp::Never).await;
        if Reading::of(&end).settled() {
            break;
        }
        if matches!(end, End::NotSent(_)) {
            // The gateway is being restarted; asking faster does not bring it back.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    caller.call(key, PAYLOAD, HangUp::Never).await;
    racers
}

async fn race(mut racers: Vec<Caller>, count: usize, key: &str) -> Vec<Caller> {
    let mut running = JoinSet::new();
    for mut racer in racers.drain(..count) {
        let key = key.to_owned();
        running.spawn(async move {
            racer.call(&key, PAYLOAD, HangUp::Never).await;
            racer
        });
    }
    racers.extend(running.join_all().await);
    racers
}
