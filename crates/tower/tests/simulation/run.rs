//! One run: who is there, what befalls them, and how it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Method, Request};
use semel_core::{
    answer::{StoredAnswer, StoredHeaders},
    effect::{Authority, Command, OnUnknown, Outcome, Owner, Phase, Record, Reply, State, Terms},
    scope::{EffectId, LookupSecret, Principal},
    time::Timestamp,
};
use semel_ledger::{Ledger, LedgerError};
use semel_testkit::simulation::{Fault, FaultyLedger, Life, LogLedger, MortalLedger, Random, VirtualClock};
use semel_tower::{Buffered, EffectPolicy, EffectRequest, Effects, Finding};
use tokio::task::JoinHandle;

use crate::{
    executor::Executor,
    history::{Books, Call, History, Told, now},
    upstream::{Manners, Upstream},
};

/// Shorter than a call's attempts together may take: it must be renewed.
const LEASE: Duration = Duration::from_secs(1);
/// What a caller sends that uses a key for something else.
const OTHER_REQUEST: &str = "something else";
/// How an operator begins to tell of an execution.
pub(crate) const FOUND: &str = "found by ann: ";
/// Longer than any stall, lease, settlement and outage together.
const QUIET: Duration = Duration::from_secs(30);

/// What is broken on purpose, for the judge to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    None,
    /// The upstream executes, and says that it did not.
    UpstreamLies,
    /// Under `retry`, the upstream executes a key as often as it comes.
    UpstreamForgets,
    /// The ledger answers claims before it flushes them.
    ClaimsUnflushed,
    /// The ledger answers settlements before it flushes them.
    SettlementsUnflushed,
    /// The ledger does whatever an owner says, however old its claim.
    FencesIgnored,
    /// Attempts begin without a look at the lease.
    LeaseIgnored,
}

/// What a seed decides before anything happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) on_unknown: OnUnknown,
    /// Two processes over one ledger that fails by itself; otherwise one process with its ledger inside.
    pub(crate) shared: bool,
    /// So many keys are in use at a time, others after each `window`.
    keys: u8,
    window: Duration,
    callers: u64,
    lasts: Duration,
    /// So many of a thousand calls to the ledger go wrong, and so many requests to the upstream.
    line_faults: u64,
    upstream_faults: u64,
    flush_max: Duration,
}

impl Setting {
    fn of(seed: u64, random: &mut Random) -> Self {
        let on_unknown = [OnUnknown::Hold, OnUnknown::Retry, OnUnknown::Probe][usize::try_from(seed % 3).unwrap()];
        let keys = 1 + u8::try_from(random.below(4)).unwrap();
        let (callers, lasts) = (3 + random.below(8), random.millis(20_000..60_000));
        let (line_faults, upstream_faults) = (random.below(150), random.below(600));
        Self {
            on_unknown,
            shared: (seed / 3).is_multiple_of(2),
            keys,
            window: random.millis(2_000..8_000),
            callers,
            lasts,
            line_faults,
            upstream_faults,
            flush_max: random.millis(1..60),
        }
    }
}

/// A gateway's process, while it lives.
#[derive(Clone)]
struct Process {
    life: Life,
    effects: Effects,
    executor: Arc<Executor>,
}

struct World {
    setting: Setting,
    sabotage: Sabotage,
    books: Books,
    random: Mutex<Random>,
    ledger: Arc<LogLedger>,
    upstream: Arc<Upstream>,
    policy: Arc<EffectPolicy>,
    processes: Mutex<Vec<Process>>,
    owners: Mutex<u64>,
    line_is_bad: Arc<AtomicBool>,
    is_over: AtomicBool,
    ids: Mutex<BTreeSet<EffectId>>,
    /// Calls under way for each key.
    busy: Mutex<BTreeMap<EffectId, usize>>,
}

/// Runs a seed to its end.
pub(crate) async fn run(seed: u64, sabotage: Sabotage) -> (Setting, History) {
    let mut random = Random::new(seed);
    let setting = Setting::of(seed, &mut random);
    let world = World::new(setting, sabotage, random);
    let callers: Vec<_> =
        (0..setting.callers).map(|_| tokio::spawn(call_again_and_again(Arc::clone(&world)))).collect();
    let chaos = tokio::spawn(befall(Arc::clone(&world)));
    let operator = tokio::spawn(operate(Arc::clone(&world)));
    tokio::time::sleep(setting.lasts).await;
    world.is_over.store(true, Ordering::SeqCst);
    operator.await.unwrap();
    chaos.await.unwrap();
    join(callers).await;
    world.heal().await;
    (setting, world.books.close())
}

async fn join(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.await.unwrap();
    }
}

impl World {
    fn new(setting: Setting, sabotage: Sabotage, mut random: Random) -> Arc<Self> {
        let books = Books::open();
        let clock = Arc::new(VirtualClock::starting_at(Timestamp::from_millis(1_800_000_000_000)));
        let ledger = LogLedger::new(clock, [7; LookupSecret::BYTES], setting.flush_max, random.fork());
        let ledger = Arc::new(match sabotage {
            Sabotage::ClaimsUnflushed => ledger.answering_unflushed(|command| matches!(command, Command::Claim(_))),
            Sabotage::SettlementsUnflushed => {
                ledger.answering_unflushed(|command| matches!(command, Command::Settle { .. }))
            }
            Sabotage::FencesIgnored => ledger.ignoring_fences(),
            _ => ledger,
        });
        let honours_keys = setting.on_unknown == OnUnknown::Retry && sabotage != Sabotage::UpstreamForgets;
        let lies = sabotage == Sabotage::UpstreamLies;
        let manners = Manners { faults: setting.upstream_faults, honours_keys, lies };
        let upstream = Upstream::new(books.clone(), random.fork(), manners);
        let mut policy = EffectPolicy::new(Arc::new(Terms {
            scope: "payments".into(),
            upstream: "payments".into(),
            on_unknown: setting.on_unknown,
            upstream_keep_ms: 3_600_000,
            keep_ms: 86_400_000,
            marker_ms: 0,
        }));
        policy.lease = LEASE;
        policy.join = Duration::from_secs(1);
        policy.settle_within = Duration::from_secs(2);
        let world = Arc::new(Self {
            setting,
            sabotage,
            books,
            random: Mutex::new(random),
            ledger,
            upstream,
            policy: Arc::new(policy),
            processes: Mutex::default(),
            owners: Mutex::default(),
            line_is_bad: Arc::new(AtomicBool::new(setting.shared)),
            is_over: AtomicBool::new(false),
            ids: Mutex::default(),
            busy: Mutex::default(),
        });
        let count = if setting.shared { 2 } else { 1 };
        let processes = (0..count).map(|_| world.process()).collect();
        *world.processes.lock().unwrap() = processes;
        world
    }

    fn owner(&self) -> Owner {
        let mut owners = self.owners.lock().unwrap();
        *owners += 1;
        Owner(*owners)
    }

    fn process(&self) -> Process {
        self.process_named(self.owner())
    }

    fn process_named(&self, owner: Owner) -> Process {
        let life = Life::begin();
        let line = Mutex::new(self.random.lock().unwrap().fork());
        let (per_mille, is_bad, books) = (self.setting.line_faults, Arc::clone(&self.line_is_bad), self.books.clone());
        let line = FaultyLedger::new(Arc::clone(&self.ledger) as Arc<dyn Ledger>, move |_, id| {
            let fault = line_fault(&mut line.lock().unwrap(), per_mille).filter(|_| is_bad.load(Ordering::SeqCst))?;
            books.fault(id, "the line to the ledger broke");
            Some(fault)
        });
        let effects = Effects::new(Arc::new(MortalLedger::new(Arc::new(line), life.clone())), owner);
        let (upstream, repeats_unknown) = (Arc::clone(&self.upstream), self.setting.on_unknown == OnUnknown::Retry);
        let ignores_lease = self.sabotage == Sabotage::LeaseIgnored;
        let executor = Arc::new(Executor { upstream, life: life.clone(), repeats_unknown, ignores_lease });
        Process { life, effects, executor }
    }

    /// One of the keys in use now.
    fn some_id(&self) -> EffectId {
        let window = self.books.time().as_millis() / self.setting.window.as_millis();
        let key = self.draw(|random| random.below(u64::from(self.setting.keys)));
        let id = effect_id(u64::try_from(window).unwrap() * u64::from(self.setting.keys) + key);
        self.ids.lock().unwrap().insert(id);
        id
    }

    /// Every key that was ever used.
    fn ids(&self) -> BTreeSet<EffectId> {
        self.ids.lock().unwrap().clone()
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.lock().unwrap())
    }

    fn phase(&self, id: EffectId) -> Phase {
        self.ledger.peek(id).map_or(Phase::Absent, |record| record.phase(self.ledger.now()))
    }

    /// The request that took the key: with another one nobody learns what became of it.
    fn request_first_made(&self, id: EffectId) -> String {
        let took = |request: &str| {
            let message = effect(id, request, QUIET).message;
            self.ledger.peek(id).is_some_and(|record| record.fingerprint.matches(&message.fingerprint_input()))
        };
        if took(OTHER_REQUEST) { OTHER_REQUEST.into() } else { request_of(id) }
    }

    /// A crash touches the effects that are called, claimed or not yet on the disk.
    fn touched(&self, what: &'static str) {
        let busy = self.busy.lock().unwrap().clone();
        let open = self.ids().into_iter().filter(|id| matches!(self.phase(*id), Phase::Open | Phase::Lapsed));
        let touched: Vec<_> = open.chain(self.ledger.at_risk()).chain(busy.into_keys()).collect();
        touched.into_iter().for_each(|id| self.books.fault(id, what));
    }

    async fn call(
        &self,
        process: &Process,
        id: EffectId,
        request: &str,
        patience: Duration,
        hangs_up: Option<Duration>,
    ) {
        *self.busy.lock().unwrap().entry(id).or_default() += 1;
        let began = self.books.time();
        let performing = process.effects.perform(effect(id, request, patience), &self.policy, &process.executor);
        let told = tokio::select! {
            biased;
            () = process.life.over() => Told::Nothing,
            () = tokio::time::sleep(hangs_up.unwrap_or(Duration::MAX)) => Told::Nothing,
            conclusion = performing => Told::of(conclusion),
        };
        let ended = self.books.time();
        let healing = self.is_over.load(Ordering::SeqCst) && !self.books.lock().before_healing.is_empty();
        let request = request.to_owned();
        self.books.lock().calls.push(Call { id, request, began, ended, patience, told, healing });
        let mut busy = self.busy.lock().unwrap();
        if let Some(count) = busy.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&id);
            }
        }
    }

    /// Nothing fails any more: everything must come to an end, and to the same end everywhere.
    async fn heal(&self) {
        self.upstream.heal();
        self.line_is_bad.store(false, Ordering::SeqCst);
        tokio::time::sleep(QUIET).await;
        let phases = self.ids().into_iter().map(|id| (id, self.phase(id))).collect();
        self.books.lock().before_healing = phases;
        let processes = self.processes.lock().unwrap().clone();
        for id in self.ids() {
            let request = self.request_first_made(id);
            self.call(&processes[0], id, &request, QUIET, None).await;
            if self.phase(id) == Phase::Unknown && self.setting.on_unknown == OnUnknown::Hold {
                self.decide(id, Duration::ZERO).await;
            }
            for process in &processes {
                self.call(process, id, &request, QUIET, None).await;
            }
        }
        for process in &processes {
            process.effects.drained().await;
        }
        let phases = self.ids().into_iter().map(|id| (id, self.phase(id))).collect();
        self.books.lock().at_the_end = phases;
    }

    /// An operator looks into the upstream's books, thinks, and decides. What is not there is fenced before it is
    /// released; what is there is told in the operator's words.
    async fn decide(&self, id: EffectId, thinks: Duration) {
        let Some(Record { state: State::Unknown { .. }, fence, .. }) = self.ledger.peek(id) else { return };
        let by = Authority::Operator { name: "ann".into(), reason: "looked it up".into() };
        let command = match self.upstream.ask(id) {
            Finding::Executed(answer) => {
                let body = [FOUND.as_bytes(), answer.body.as_whole().unwrap()].concat().into();
                let answer = StoredAnswer { status: answer.status, headers: StoredHeaders::default(), body };
                Command::Settle { fence, outcome: Outcome::Settled(answer), by, attempts: 0 }
            }
            Finding::Fenced => Command::Release { fence, by },
            Finding::StillUnknown => return,
        };
        tokio::time::sleep(thinks).await;
        // What is refused was decided otherwise meanwhile; what fails is tried another time.
        if self.ledger.apply(id, command).await.is_ok_and(|applied| applied.reply == Reply::Applied) {
            self.books.lock().decided += 1;
        }
    }
}

fn effect_id(number: u64) -> EffectId {
    let [first, second] = [number.to_be_bytes(); 2];
    EffectId::from_bytes([first, second].concat().try_into().unwrap())
}

fn request_of(id: EffectId) -> String {
    format!("pay {id}")
}

fn effect(id: EffectId, request: &str, patience: Duration) -> EffectRequest {
    let head = Request::builder().method(Method::POST).uri("/pay").body(()).unwrap().into_parts().0;
    let message = Arc::new(Buffered::new(head, request.to_owned().into()));
    EffectRequest { message, id, proof: Principal::anyone().proof(), deadline: now() + patience }
}

fn line_fault(random: &mut Random, per_mille: u64) -> Option<Fault> {
    if !random.chance(per_mille) {
        return None;
    }
    let wait = random.millis(10..4_000);
    let unreachable = || Fault::Refuse(LedgerError::Unreachable("the line is down".into()));
    let fault = match random.below(6) {
        0 => unreachable(),
        1 => Fault::LoseRequest,
        2 => Fault::LoseReply,
        3 => Fault::Delay(wait),
        4 => Fault::DelayReply(wait),
        _ => Fault::Hang,
    };
    Some(fault)
}

/// A caller: one call after the other, on random keys, some with another request, some hung up.
async fn call_again_and_again(world: Arc<World>) {
    while !world.is_over.load(Ordering::SeqCst) {
        tokio::time::sleep(world.draw(|random| random.millis(0..2_000))).await;
        let id = world.some_id();
        let process = world.draw(|random| random.pick(&world.processes.lock().unwrap()).clone());
        if process.life.is_over() {
            continue;
        }
        let request = if world.draw(|random| random.chance(50)) { OTHER_REQUEST.into() } else { request_of(id) };
        let patience = world.draw(|random| random.millis(200..8_000));
        let hangs_up = world.draw(|random| random.chance(150).then(|| random.millis(1..500)));
        world.call(&process, id, &request, patience, hangs_up).await;
    }
}

/// An operator decides an unknown effect now and then.
async fn operate(world: Arc<World>) {
    while !world.is_over.load(Ordering::SeqCst) {
        tokio::time::sleep(world.draw(|random| random.millis(0..5_000))).await;
        let unknown: Vec<_> = world.ids().into_iter().filter(|id| world.phase(*id) == Phase::Unknown).collect();
        if !unknown.is_empty() {
            let (id, thinks) = world.draw(|random| (*random.pick(&unknown), random.millis(0..2_000)));
            world.decide(id, thinks).await;
        }
    }
}

/// Processes and ledgers crash and come back.
async fn befall(world: Arc<World>) {
    while !world.is_over.load(Ordering::SeqCst) {
        tokio::time::sleep(world.draw(|random| random.millis(500..10_000))).await;
        let down_for = world.draw(|random| random.millis(50..4_000));
        let crashes_process = !world.setting.shared || world.draw(|random| random.chance(600));
        let crashes_ledger = !world.setting.shared || !crashes_process;
        let began = world.books.time();
        world.touched(if crashes_process { "its process crashed" } else { "the ledger crashed" });
        let count = world.processes.lock().unwrap().len() as u64;
        let which = usize::try_from(world.draw(|random| random.below(count))).unwrap();
        if crashes_process {
            world.processes.lock().unwrap()[which].life.end();
        }
        if crashes_ledger {
            world.ledger.crash();
        }
        tokio::time::sleep(down_for).await;
        let owner = world.owner();
        if crashes_ledger {
            // A ledger inside the process knows that every other owner is gone; a shared one does not.
            world.ledger.restart((!world.setting.shared).then_some(owner));
            world.touched("the ledger came back");
            let ended = world.books.time();
            world.books.lock().outages.push((began, ended));
        }
        if crashes_process {
            let process = world.process_named(owner);
            world.processes.lock().unwrap()[which] = process;
        }
    }
}
