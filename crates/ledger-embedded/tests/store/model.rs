//! The store against a `BTreeMap`, with reopening and checkpoints at any point.

use crate::kv::{Operation, get, key, open, small};
use proptest::{collection::vec, prelude::*};
use semel_ledger_embedded::store::{Key, Store};
use std::{collections::BTreeMap, time::Duration};

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(u8, Option<u16>)>),
    CompareAndSet(u8, Option<u16>, Option<u16>),
    Checkpoint,
    Rewrite,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..24u8;
    let value = || proptest::option::weighted(0.7, 0..2000u16);
    prop_oneof![
        8 => vec((key.clone(), value()), 1..6).prop_map(Step::Write),
        6 => (key, proptest::option::of(0..4u16), value()).prop_map(|(k, e, v)| Step::CompareAndSet(k, e, v)),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Rewrite),
        2 => Just(Step::Reopen),
    ]
}

/// Values of very different lengths, all different.
fn body(value: u16) -> Vec<u8> {
    value.to_le_bytes().repeat(1 + usize::from(value % 700))
}

fn name(key: u8) -> Key {
    self::key(1 + key % 3, [key])
}

type Model = BTreeMap<Key, Vec<u8>>;

fn apply(model: &mut Model, key: Key, value: Option<Vec<u8>>) {
    match value {
        Some(value) => model.insert(key, value),
        None => model.remove(&key),
    };
}

fn check(store: &Store<crate::kv::Kv>, model: &Model) {
    for name in (0..24).map(name) {
        assert_eq!(get(store, &name), model.get(&name).cloned(), "{name:?}");
    }
    for space in 1..4u8 {
        let scanned: Vec<_> = store.scan(&[space], &[]).map(|item| item.unwrap()).collect();
        let scanned: Vec<_> = scanned.iter().map(|(key, value)| (*key, value.body.to_vec())).collect();
        let expected = model.iter().filter(|(key, _)| key.as_ref()[0] == space);
        assert_eq!(scanned, expected.map(|(key, value)| (*key, value.clone())).collect::<Vec<_>>());
        if let Some((from, _)) = scanned.get(scanned.len() / 2) {
            let rest = store.scan(&[space], from.as_ref()).count();
            assert_eq!(rest, scanned.len() - scanned.len() / 2, "a scan can start anywhere");
        }
    }
}

fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    let mut store = open(&options);
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Write(writes) => {
                let writes: Vec<_> = writes.into_iter().map(|(k, v)| (name(k), v.map(body))).collect();
                for (key, value) in writes.clone() {
                    apply(&mut model, key, value);
                }
                store.call_blocking(Operation::Write(writes)).unwrap();
            }
            Step::CompareAndSet(k, expected, value) => {
                let (key, expected, value) = (name(k), expected.map(body), value.map(body));
                let found = model.get(&key).cloned();
                if found == expected {
                    apply(&mut model, key, value.clone());
                }
                let operation = Operation::CompareAndSet(key, expected, value);
                assert_eq!(store.call_blocking(operation).unwrap(), found);
            }
            Step::Checkpoint => assert!(store.checkpoint(Duration::from_secs(20))),
            Step::Rewrite => store.rewrite().unwrap(),
            Step::Reopen => {
                drop(store);
                store = open(&options);
            }
        }
    }
    check(&store, &model);
    drop(store);
    check(&open(&options), &model);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map(steps in vec(step(), 1..80)) {
        run(steps);
    }
}

#[test]
fn many_writes_go_through_log_checkpoint_and_compaction() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    let mut store = open(&options);
    let mut model = Model::new();
    for round in 0..2000u32 {
        let key = key(2, (round.wrapping_mul(2_654_435_761) % 700).to_be_bytes());
        let value = (round % 5 != 0).then(|| round.to_le_bytes().repeat(60));
        apply(&mut model, key, value.clone());
        store.call_blocking(Operation::Write(vec![(key, value)])).unwrap();
        if round % 500 == 499 {
            drop(store);
            store = open(&options);
        }
    }
    let stats = store.stats().unwrap();
    assert!(stats.table_bytes > 0 && stats.memory_bytes < 200_000, "{stats:?}");
    let scanned: Vec<_> = store.scan(&[2], &[]).map(|item| item.unwrap()).collect();
    assert_eq!(scanned.len(), model.len());
    assert!(scanned.iter().all(|(key, value)| model[key] == value.body));
}
