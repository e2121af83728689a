//! How long this disk takes to make 4 KiB durable, right now: these disks are noisy, and every durable figure is only
//! worth what stands beside it.

use clap::Args;
use serde_json::json;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::time::Instant;

/// Flushes of each kind.
const FLUSHES: usize = 200;
const BLOCK: [u8; 4096] = [0x5a; 4096];

#[derive(Args)]
pub(crate) struct Probe {
    /// A folder on the disk.
    #[arg(long)]
    folder: PathBuf,
}

impl Probe {
    pub(crate) fn report(self) -> io::Result<()> {
        let path = self.folder.join("semel-probe");
        let append = self.measure(&path, |_| Ok(()))?;
        let in_place = self.measure(&path, |file| file.seek(SeekFrom::Start(0)).map(|_| ()))?;
        std::fs::remove_file(&path)?;
        println!("{}", json!({ "append_p50_us": append, "in_place_p50_us": in_place }));
        Ok(())
    }

    fn measure(&self, path: &PathBuf, place: impl Fn(&mut File) -> io::Result<()>) -> io::Result<u128> {
        let mut file = File::create(path)?;
        file.write_all(&BLOCK)?;
        file.sync_all()?;
        let mut times = Vec::with_capacity(FLUSHES);
        for _ in 0..FLUSHES {
            place(&mut file)?;
            let start = Instant::now();
            file.write_all(&BLOCK)?;
            file.sync_data()?;
            times.push(start.elapsed().as_micros());
        }
        times.sort_unstable();
        Ok(times[FLUSHES / 2])
    }
}
