//! Who may open what.

use crate::kv::{Kv, Operation, get, key, open, put, small};
use semel_ledger_embedded::{Error, store::Store};

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let options = small(dir.path());
    let first = open(&options);
    assert!(matches!(Store::open(&options, Kv::default()), Err(Error::Locked { .. })));
    put(&first, key(1, "a"), b"1");
    drop(first);
    assert_eq!(get(&open(&options), &key(1, "a")).unwrap(), b"1");
}

#[test]
fn a_folder_of_something_else_is_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("holiday-pictures")).unwrap();
    assert!(matches!(Store::open(&small(dir.path()), Kv::default()), Err(Error::NotALedger { .. })));
    assert!(dir.path().join("holiday-pictures").exists());
}

#[test]
fn a_value_that_cannot_fit_is_refused_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&small(dir.path()));
    let huge = vec![7; 60 << 10];
    let refused = store
        .call_blocking(Operation::Write(vec![(key(1, "small"), Some(b"1".to_vec())), (key(1, "huge"), Some(huge))]));
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(get(&store, &key(1, "small")), None, "an operation counts as a whole or not at all");
    put(&store, key(1, "b"), b"2");
    assert_eq!(get(&store, &key(1, "b")).unwrap(), b"2");
}

#[test]
fn callers_share_a_batch_and_each_sees_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&small(dir.path()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let counter = key(1, "counter");
    let increments = 64;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                runtime.block_on(async {
                    for _ in 0..increments / 8 {
                        let mut expected = None;
                        loop {
                            let next: u64 = expected.as_deref().map_or(0, number) + 1;
                            let set =
                                Operation::CompareAndSet(counter, expected.clone(), Some(next.to_le_bytes().to_vec()));
                            let found = store.call(set).await.unwrap();
                            if found == expected {
                                break;
                            }
                            expected = found;
                        }
                    }
                });
            });
        }
    });
    assert_eq!(number(&get(&store, &counter).unwrap()), increments);
    assert!(store.stats().unwrap().last_batch <= increments);
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}
