//! The programs as child processes: started on ports that are kept for them, ended and waited for. I/O.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// What an error tells of a log.
const TAIL_LINES: usize = 20;

/// A port of this machine that nobody else is given. It is bound with `SO_REUSEPORT` and never listened on, so a program that
/// binds it the same way gets every connection, and while that one is down they are refused.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    pub(crate) fn keep(address: Ipv4Addr) -> anyhow::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .context("failed to make a socket")?;
        sockopt::set_socket_reuseport(&socket, true).context("failed to share a port")?;
        bind(&socket, &SocketAddrV4::new(address, 0)).context("failed to find a free port")?;
        let number = SocketAddr::try_from(getsockname(&socket)?).context("a socket has no address")?.port();
        Ok(Self { number, _socket: socket })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// A running program. Dropping it ends it and waits for that, so that nothing writes into its folder afterwards: what tokio's
/// own handle cannot do, and why this is std's.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with `folder` as its home and with its own neighbours first on its path. What it says is appended to
    /// `<name>.log` there.
    ///
    /// The kernel ends it when the thread that started it ends, so that none is left where a test's process is killed.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let path = folder.join(format!("{name}.log"));
        let log = File::options().create(true).append(true).open(&path).context("failed to open a log")?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.current_dir(folder).env("HOME", folder);
        if let Some(neighbours) = program.parent().filter(|parent| parent.is_absolute()) {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", neighbours.display()));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().context("failed to share a log")?).stderr(log);
        let child = command.spawn().with_context(|| format!("failed to start {name} by setpriv (of util-linux)"))?;
        Ok(Self { name, child, log: path })
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// It has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("failed to look at {}", self.name))? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// The last lines of its log, under its name.
    pub(crate) fn tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the last lines of {}:\n{}\n", self.name, last.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};

    use tokio::time::{Duration, sleep, timeout};

    use super::*;
    use crate::http::LIMIT;

    #[test]
    fn nobody_else_is_given_a_port_that_is_kept() {
        let port = Port::keep(Ipv4Addr::LOCALHOST).unwrap();
        let address = (Ipv4Addr::LOCALHOST, port.number());
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let others: Vec<_> = (0..200).map(|_| Port::keep(Ipv4Addr::LOCALHOST).unwrap()).collect();
        assert!(others.iter().all(|other| other.number() != port.number()));
    }

    #[test]
    fn an_error_tells_the_last_lines_of_a_program_that_ended() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-c".to_owned(), "seq 1 30; exit 3".to_owned()];
        let mut process = Process::start("counter", Path::new("/bin/sh"), &arguments, folder.path()).unwrap();
        process.child.wait().unwrap();
        assert_eq!(process.check().unwrap_err().to_string(), "counter ended with exit status: 3");
        let last: Vec<_> = (11..=30).map(|number| number.to_string()).collect();
        assert_eq!(process.tail(), format!("the last lines of counter:\n{}\n", last.join("\n")));
    }
    #[tokio::test]
    async fn a_program_that_nobody_ends_goes_with_the_thread_that_started_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let (told, id) = tokio::sync::oneshot::channel();
        let (end, ending) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let process = Process::start("sleep", Path::new("sleep"), &["600".to_owned()], &path).unwrap();
            told.send(process.id()).unwrap();
            let _ = ending.recv();
            std::mem::forget(process);
        });
        let id = id.await.unwrap();
        let status = || std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        timeout(LIMIT, async {
            // First it is this program itself, then setpriv, then what was asked for.
            while !status().starts_with("Name:\tsleep\n") {
                sleep(Duration::from_millis(5)).await;
            }
            drop(end);
            // Ended, and not yet waited for.
            while !status().contains("State:\tZ") {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        thread.join().unwrap();
    }
}
