//! A disk that fills up: claims stop first, settlements still fit, nothing that was acknowledged is lost.

use crate::own::{answer, claim, settle};
use semel_core::{
    effect::{Fence, Owner, Phase},
    scope::EffectId,
};
use semel_ledger::{Health, Ledger, LedgerError};
use semel_ledger_embedded::{EmbeddedLedger, Options};
use semel_testkit::clock::wait_until;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// A small disk in memory, unmounted when dropped.
struct SmallDisk {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mib: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(&path)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self { path, _folder: folder })
    }

    /// Takes all the room there is; returns the file that holds it.
    #[expect(clippy::disallowed_methods, reason = "filling a disk is what this test is for")]
    fn fill(&self) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn open(dir: &Path) -> EmbeddedLedger {
    let mut options = Options::new(dir);
    options.segment_bytes = 256 << 10;
    options.memory_bytes = 256 << 10;
    options.checkpoint_log_bytes = 1 << 20;
    options.table_bytes = 1 << 20;
    options.disk_reserve_bytes = 8 << 20;
    EmbeddedLedger::open(options, Owner(1)).unwrap()
}

fn id(n: u32) -> EffectId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    EffectId::from_bytes(bytes)
}

async fn try_claim(ledger: &EmbeddedLedger, n: u32) -> Result<Fence, LedgerError> {
    ledger.apply(id(n), claim(1)).await.map(|applied| applied.seen.record.unwrap().fence)
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "filling a disk is what this test is for")]
async fn claims_stop_at_the_reserve_and_settlements_use_it() {
    let Some(disk) = SmallDisk::mount(32) else {
        return semel_testkit::skipped("a small disk needs root: mount -t tmpfs is refused");
    };
    let dir = disk.path.join("ledger");
    let ledger = open(&dir);
    let mut open_claims = Vec::new();
    let mut settled = 0;
    let mut n = 0;
    // Every tenth stays open; the others fill the disk with their answers.
    let paused = loop {
        n += 1;
        match try_claim(&ledger, n).await {
            Ok(fence) if n % 10 == 0 => open_claims.push((n, fence)),
            Ok(fence) => {
                ledger.apply(id(n), settle(fence, answer(n, 4000))).await.unwrap();
                settled += 1;
            }
            Err(error) => break error,
        }
        assert!(n < 20_000, "the disk must be full by now");
    };
    assert!(matches!(paused, LedgerError::ClaimsPaused(_)), "{paused:?}");
    assert!(settled > 500 && matches!(ledger.health(), Health::ClaimsPaused(_)));

    // Now there is no byte left at all: what was claimed can still be settled.
    let filler = disk.fill();
    let (late, rest) = open_claims.split_at(open_claims.len().min(50));
    for (n, fence) in late {
        ledger.apply(id(*n), settle(*fence, answer(*n, 1000))).await.unwrap();
    }
    assert!(matches!(try_claim(&ledger, n + 1).await, Err(LedgerError::ClaimsPaused(_))));

    drop(ledger);
    std::fs::remove_file(filler).unwrap();
    let ledger = open(&dir);
    for k in 1..n {
        let phase = ledger.look_up(id(k)).await.unwrap().phase();
        let still_open = rest.iter().any(|(open, _)| *open == k);
        assert_eq!(phase, if still_open { Phase::Open } else { Phase::Settled }, "{k}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "filling a disk is what this test is for")]
async fn claims_go_on_when_there_is_room_again() {
    let Some(disk) = SmallDisk::mount(32) else {
        return semel_testkit::skipped("a small disk needs root: mount -t tmpfs is refused");
    };
    let ledger = open(&disk.path.join("ledger"));
    try_claim(&ledger, 1).await.unwrap();
    let filler = disk.fill();
    assert!(wait_until(Duration::from_secs(10), || ledger.health() != Health::Ready));
    assert!(matches!(try_claim(&ledger, 2).await, Err(LedgerError::ClaimsPaused(_))));
    std::fs::remove_file(filler).unwrap();
    assert!(wait_until(Duration::from_secs(10), || ledger.health() == Health::Ready));
    try_claim(&ledger, 2).await.unwrap();
}
