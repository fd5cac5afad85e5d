//! What a process holds, as the kernel counts it: memory, threads, descriptors. I/O: reads `/proc`.
//!
//! Resident memory has two parts. *Own* memory (`RssAnon` and `RssShmem`) was allocated and is there until it is freed.
//! *File* memory (`RssFile`) is page cache that the process has mapped: code, and weight files while they are read. The
//! kernel takes it back when memory runs short, so it decides about no load; own memory does.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

/// Between two looks. A buffer of a megabyte takes longer to be filled.
const INTERVAL: Duration = Duration::from_millis(1);

/// In which `/proc` counts time, on every Linux.
const TICKS_A_SECOND: f64 = 100.0;

/// Memory of a process at one moment, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Allocated memory that is resident.
    pub own: u64,
    /// Mapped page cache that is resident.
    pub file: u64,
    /// The highest sum of the two since the last [`reset_peak`].
    pub peak: u64,
}

impl Memory {
    /// Resident memory.
    pub fn resident(&self) -> u64 {
        self.own + self.file
    }
}

/// Reads a process's memory.
pub fn memory(process: u32) -> Result<Memory> {
    let text = status(process)?;
    let bytes = |name: &str| kilobytes(&text, name).map(|kilobytes| kilobytes * 1_024);
    Ok(Memory { own: bytes("RssAnon")? + bytes("RssShmem")?, file: bytes("RssFile")?, peak: bytes("VmHWM")? })
}

/// Threads of a process.
pub fn threads(process: u32) -> Result<u64> {
    kilobytes(&status(process)?, "Threads")
}

/// Open descriptors of a process.
pub fn descriptors(process: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{process}/fd")).context("failed to list descriptors")?.count())
}

/// Time that a process has had of a processor, in seconds.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ticks")]
pub fn processor_seconds(process: u32) -> Result<f64> {
    let text =
        fs::read_to_string(format!("/proc/{process}/stat")).with_context(|| format!("process {process} has ended"))?;
    // The name before may hold anything, but no other `)` follows it.
    let fields = text.rsplit_once(')').context("no name in its status")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().context("no times in its status")?;
    Ok(ticks as f64 / TICKS_A_SECOND)
}

/// Lets the peak of resident memory begin anew.
pub fn reset_peak(process: u32) -> Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5").context("failed to reset the peak of resident memory")
}

fn status(process: u32) -> Result<String> {
    fs::read_to_string(format!("/proc/{process}/status")).with_context(|| format!("process {process} has ended"))
}

/// A number of `/proc/<process>/status`, without its unit.
fn kilobytes(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).context("the kernel writes the field")?;
    number.parse().with_context(|| format!("{name} is {number:?}"))
}

/// The highest values that a [`Watch`] has seen, each at its own moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    /// Of own memory.
    pub own: u64,
    /// Of mapped page cache.
    pub file: u64,
}

/// Looks at a process's memory every millisecond until it is stopped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Peaks>,
}

impl Watch {
    /// Starts to look.
    pub fn start(process: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peaks = Peaks::default();
            while !stopped.load(Ordering::Relaxed) {
                let Ok(memory) = memory(process) else { break };
                peaks.own = peaks.own.max(memory.own);
                peaks.file = peaks.file.max(memory.file);
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a thread of its own, so that the runtime delays no look"
                )]
                std::thread::sleep(INTERVAL);
            }
            peaks
        });
        Self { stop, thread }
    }

    /// Ends it and answers what it saw.
    pub fn stop(self) -> Result<Peaks> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the watch panicked"))
    }
}
