//! A flipped byte or a cut file, anywhere: the store refuses to open, or the read says that it is damaged. What is
//! there never turns absent, and what comes back is what was written.
//!
//! `SEMEL_EXHAUSTIVE=1` flips every byte instead of a stride of them.

#![expect(clippy::disallowed_methods, reason = "damaging files is what this test is for")]

use crate::kv::{Kv, Operation, get, key, open, put, small};
use semel_ledger_embedded::{
    Error,
    store::{Key, Options, Store},
    verify,
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) type Model = BTreeMap<Key, Vec<u8>>;
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn tiny(dir: &Path) -> Options {
    let mut options = small(dir);
    options.segment_bytes = 32 << 10;
    options.table_bytes = 16 << 10;
    options
}

/// A ledger with records in merged tables, in a fresh table, and in the log alone.
pub(crate) fn build(dir: &Path) -> Model {
    let store = open(&tiny(dir));
    let mut model = Model::new();
    for round in 0..3u8 {
        for n in 0..40u8 {
            let key = key(1 + n % 4, [n, round % 2]);
            let value = vec![n ^ round; 60 + usize::from(n) * 3];
            put(&store, key, &value);
            model.insert(key, value);
            if n % 7 == 0 {
                let gone = crate::kv::key(1, [n, round % 2, 1]);
                put(&store, gone, b"gone");
                store.call_blocking(Operation::Write(vec![(gone, None)])).unwrap();
            }
        }
        if round < 2 {
            assert!(store.checkpoint(Duration::from_secs(20)));
        }
        if round == 0 {
            store.rewrite().unwrap();
        }
    }
    drop(store);
    model
}

pub(crate) fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

pub(crate) fn restore(dir: &Path, pristine: &Files) {
    fs::remove_dir_all(dir).unwrap();
    for (path, bytes) in pristine {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

pub(crate) fn overwrite(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    reported: usize,
    harmless: usize,
}

/// Opens what was damaged and reads everything.
fn judge(dir: &Path, model: &Model, what: &str, tally: &mut Tally) {
    let store = match Store::open(&tiny(dir), Kv::default()) {
        Ok(store) => store,
        Err(Error::Damaged(_)) => return tally.refused += 1,
        Err(other) => panic!("{what}: {other:?}"),
    };
    let mut reported = false;
    for (key, value) in model {
        match store.get(key) {
            Ok(Some(found)) => assert_eq!(found.body, value, "{what}: {key:?} changed"),
            Ok(None) => panic!("{what}: {key:?} turned absent"),
            Err(Error::Damaged(_)) => reported = true,
            Err(other) => panic!("{what}: {other:?}"),
        }
        // The same through a decision.
        match store.call_blocking(Operation::CompareAndSet(*key, Some(b"never".to_vec()), None)) {
            Ok(found) => assert_eq!(found.as_ref(), Some(value), "{what}: {key:?} decided on"),
            Err(Error::Damaged(_)) => reported = true,
            Err(other) => panic!("{what}: {other:?}"),
        }
    }
    let mut scanned = 0;
    for item in store.scan(&[], &[]) {
        match item {
            Ok((key, value)) => {
                assert_eq!(Some(&value.body[..]), model.get(&key).map(|v| &v[..]), "{what}: scan of {key:?}");
                scanned += 1;
            }
            Err(_) => reported = true,
        }
    }
    assert!(reported || scanned == model.len(), "{what}: a scan missed records and did not say so");
    tally.reported += usize::from(reported);
    tally.harmless += usize::from(!reported);
}

/// Places all over a file: mostly where something is written, some in the zeros behind it.
fn some_places(bytes: &[u8]) -> Vec<usize> {
    let (written, zeros): (Vec<usize>, Vec<usize>) = (0..bytes.len()).partition(|&at| bytes[at] != 0);
    let spread = |places: Vec<usize>, count: usize| {
        let stride = (places.len() / count).max(1);
        places.into_iter().step_by(stride).collect::<Vec<_>>()
    };
    [spread(written, 140), spread(zeros, 20)].concat()
}

fn check_all(which: impl Fn(&str) -> bool) -> Tally {
    let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let dir = folder.path().join("ledger");
    let model = build(&dir);
    let pristine = files(&dir);
    let mut tally = Tally::default();
    judge(&dir, &model, "untouched", &mut tally);
    assert_eq!(tally.harmless, 1);
    let exhaustive = std::env::var_os("SEMEL_EXHAUSTIVE").is_some();
    for (path, bytes) in pristine.iter().filter(|(path, _)| which(&path.to_string_lossy())) {
        let flips = if exhaustive { (0..bytes.len()).collect() } else { some_places(bytes) };
        for at in flips {
            restore(&dir, &pristine);
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(path, &flipped).unwrap();
            judge(&dir, &model, &format!("{} flipped at {at}", path.display()), &mut tally);
        }
        for cut in [0, 1, bytes.len() / 3, bytes.len() / 2, 4096, bytes.len().saturating_sub(1)] {
            restore(&dir, &pristine);
            fs::write(path, &bytes[..cut.min(bytes.len())]).unwrap();
            judge(&dir, &model, &format!("{} cut at {cut}", path.display()), &mut tally);
        }
        restore(&dir, &pristine);
        fs::remove_file(path).unwrap();
        judge(&dir, &model, &format!("{} removed", path.display()), &mut tally);
    }
    tally
}

#[test]
fn damage_in_the_log_is_never_absence() {
    let tally = check_all(|path| path.contains("/log/"));
    assert!(tally.refused > 50, "{tally:?}");
}

#[test]
fn damage_in_the_tables_is_never_absence() {
    let tally = check_all(|path| path.contains("/tables/"));
    assert!(tally.refused > 20 && tally.reported > 100, "{tally:?}");
}

#[test]
fn damage_in_the_small_files_is_never_absence() {
    let tally = check_all(|path| !path.contains("/log/") && !path.contains("/tables/") && !path.ends_with("LOCK"));
    assert!(tally.refused > 50, "{tally:?}");
}

#[test]
fn verify_finds_nothing_in_a_whole_ledger_and_names_the_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    let model = build(&dir);
    let report = verify(&tiny(&dir)).unwrap();
    assert_eq!(report.damages, []);
    assert!(report.tables > 0 && report.log_batches > 0 && report.table_records as usize >= model.len() / 2);
    let pristine = files(&dir);
    for (path, bytes) in &pristine {
        let name = path.to_string_lossy();
        // An old version of the tree or an unused part of the log need not be whole.
        if name.contains("/tables/") {
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 2] ^= 4;
            fs::write(path, flipped).unwrap();
            let report = verify(&tiny(&dir)).unwrap();
            assert!(report.damages.iter().any(|damage| damage.place == *path), "{name}: {report:?}");
            restore(&dir, &pristine);
        }
    }
}

/// The last batch of the log, damaged.
pub(crate) fn damage_last_batch(dir: &Path) {
    let (mut newest, mut place) = (0, None);
    for (path, bytes) in files(&dir.join("log")) {
        for at in (0..bytes.len()).step_by(4096) {
            let number = u64::from_le_bytes(bytes[at + 8..at + 16].try_into().unwrap());
            if bytes[at..].starts_with(b"SMLB") && number > newest {
                (newest, place) = (number, Some((path.clone(), at)));
            }
        }
    }
    let (path, at) = place.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[at + 80] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_acknowledged_tail_is_never_taken_for_a_torn_one() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    build(&dir);
    damage_last_batch(&dir);
    let refused = Store::open(&tiny(&dir), Kv::default()).map(|_| ());
    assert!(matches!(&refused, Err(Error::Damaged(damage)) if damage.what.contains("acknowledged")), "{refused:?}");
}

#[test]
fn a_torn_tail_that_nobody_was_told_of_is_repaired_with_a_copy_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    build(&dir);
    // The mark as it was before the last batch: that batch was being written when the power went.
    let mark = fs::read(dir.join("MARK")).unwrap();
    let store = open(&tiny(&dir));
    put(&store, key(1, "torn"), b"torn");
    drop(store);
    fs::write(dir.join("MARK"), mark).unwrap();
    damage_last_batch(&dir);
    let store = open(&tiny(&dir));
    assert_eq!(get(&store, &key(1, "torn")), None);
    put(&store, key(1, "next"), b"next");
    drop(store);
    assert!(fs::read_dir(&dir).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("torn-batch-")));
    let store = open(&tiny(&dir));
    assert_eq!(get(&store, &key(1, "next")).unwrap(), b"next");
    assert_eq!(get(&store, &key(1, "torn")), None);
}

#[test]
fn a_table_that_cannot_be_compacted_does_not_stop_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    build(&dir);
    // A data block that compaction needs and opening does not.
    let store = files(&dir.join("table").join("tables")).into_iter().find_map(|(path, bytes)| {
        let mut flipped = bytes.clone();
        flipped[60] ^= 1;
        fs::write(&path, flipped).unwrap();
        let opened = Store::open(&tiny(&dir), Kv::default());
        if opened.is_err() {
            fs::write(&path, bytes).unwrap();
        }
        opened.ok()
    });
    let store = store.expect("one of the tables is not read by opening");
    // Far more checkpoints than compaction may be behind.
    for n in 0..800u32 {
        put(&store, key(2, n.to_be_bytes()), &[7; 1000]);
    }
    assert!(store.stats().unwrap().compaction_backlog > 16);
    assert!((0..800u32).all(|n| store.get(&key(2, n.to_be_bytes())).is_ok_and(|value| value.is_some())));
}
