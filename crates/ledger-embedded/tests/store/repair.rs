//! Repair: what can be read is kept, what cannot is lost and written down, and the ledger opens again.

use crate::{
    damage::{Files, Model, build, files, restore, tiny},
    kv::{Kv, get, key, open, put},
};
use semel_core::{
    effect::{AuditKind, Authority},
    time::Timestamp,
};
use semel_ledger_embedded::{
    Error, Repair, repair_accepting_loss,
    store::{Store, space},
    verify,
};
use std::path::Path;

fn repair(dir: &Path) -> Repair {
    let by = Authority::Operator { name: "ann".into(), reason: "the disk died".into() };
    repair_accepting_loss(&tiny(dir), by, Timestamp::from_millis(7)).unwrap()
}

/// Reads everything, without minding what is lost; returns how much is.
fn lost(store: &Store<Kv>, model: &Model) -> usize {
    let mut lost = 0;
    for (key, value) in model {
        match get(store, key) {
            Some(found) if found == *value => {}
            Some(found) => {
                // Where the newest version is lost, the one before shows again: `build` wrote some keys twice.
                let before: Vec<u8> = value.iter().map(|byte| byte ^ 2).collect();
                assert_eq!(found, before, "{key:?} came back changed");
                lost += 1;
            }
            None => lost += 1,
        }
    }
    lost
}

fn repair_notes(store: &Store<Kv>) -> usize {
    let lines = store.scan(&[space::AUDIT], &[]).filter_map(Result::ok);
    let lines = lines.filter_map(|(_, value)| semel_ledger::codec::decode_audit(&value.body).ok());
    lines.filter(|event| event.kind == AuditKind::Repaired && event.detail.contains("damages")).count()
}

#[test]
fn a_whole_ledger_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    let model = build(&dir);
    let report = repair(&dir);
    assert_eq!((report.damages.len(), report.kept.len()), (0, 0));
    let store = open(&tiny(&dir));
    assert_eq!((lost(&store, &model), repair_notes(&store)), (0, 0));
}

fn check_repair(dir: &Path, pristine: &Files, model: &Model, what: &str, lost_max: usize) {
    let refused = Store::open(&tiny(dir), Kv::default()).map(|_| ());
    let damaged = matches!(refused, Err(Error::Damaged(_)));
    let report = repair(dir);
    assert!(!report.damages.is_empty(), "{what}: nothing was found");
    let store = open(&tiny(dir));
    let lost = lost(&store, model);
    assert!(lost <= lost_max, "{what}: {lost} of {} records lost: {report:?}", model.len());
    assert_eq!(repair_notes(&store), 1, "{what}");
    // It works on, through a restart, and another verification finds it whole.
    put(&store, key(1, "after"), b"after");
    drop(store);
    let store = open(&tiny(dir));
    assert_eq!(get(&store, &key(1, "after")).unwrap(), b"after", "{what}");
    drop(store);
    assert_eq!(verify(&tiny(dir)).unwrap().damages, [], "{what}");
    assert!(damaged || !report.kept.is_empty(), "{what}: what was there is kept");
    restore(dir, pristine);
}

#[test]
fn damage_costs_what_it_covers_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    let model = build(&dir);
    let pristine = files(&dir);
    for (path, bytes) in &pristine {
        let name = path.to_string_lossy().into_owned();
        if name.contains("/tables/") {
            for at in [40, bytes.len() / 2, bytes.len() - 20] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                restore(&dir, &pristine);
                crate::damage::overwrite(path, &flipped);
                // One block of 8 KiB at most.
                check_repair(&dir, &pristine, &model, &format!("{name} at {at}"), 60);
            }
            crate::damage::overwrite(path, &bytes[..bytes.len() / 2]);
            check_repair(&dir, &pristine, &model, &format!("{name} cut"), 120);
        } else if name.ends_with("current") || name.ends_with("MARK") || name.contains("/table/v") {
            crate::damage::overwrite(path, b"");
            if verify(&tiny(&dir)).unwrap().damages.is_empty() {
                restore(&dir, &pristine);
                continue;
            }
            check_repair(&dir, &pristine, &model, &format!("{name} emptied"), 0);
        }
    }
}

#[test]
fn a_hole_in_the_log_costs_its_batch_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ledger");
    let model = build(&dir);
    let pristine = files(&dir);
    crate::damage::damage_last_batch(&dir);
    check_repair(&dir, &pristine, &model, "the last batch", 1);
}
