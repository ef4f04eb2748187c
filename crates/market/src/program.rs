//! Programs of the user's that judge: an operator's policy, a buyer's own assessor. They read JSON on standard input and write JSON.
//!
//! A program is run without a shell, in a process group of its own, with no environment but `PATH`. It has a time limit and a limit on what it writes;
//! at either its whole group is killed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// Bytes of a program's standard error that are kept for the log; the rest is read and dropped.
const MAX_COMPLAINT_BYTES: usize = 1024;
/// Time for a killed process to be reaped.
const REAP_LIMIT: Duration = Duration::from_secs(1);

/// A program and its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Time from its start to its end.
    pub time_limit: Duration,
    /// Bytes that it may write.
    pub max_output: usize,
}

/// Why a program's output doesn't count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It doesn't start.
    #[error("{} doesn't start: {reason}; check the path, and that the file is executable", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It took too long.
    #[error("no output within {limit_ms} ms: the program was killed; make it faster, or raise its time limit")]
    Late {
        /// The limit, milliseconds.
        limit_ms: u128,
    },
    /// It wrote too much.
    #[error("the program wrote more than {max} bytes and was killed")]
    TooMuchOutput {
        /// The limit, bytes.
        max: usize,
    },
    /// It failed.
    #[error("the program failed ({status}); it must end with status 0")]
    Failed {
        /// How it ended.
        status: ExitStatus,
    },
}

impl ProgramError {
    /// Stable code of the error.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Start { .. } => "TRB-M261",
            Self::Late { .. } => "TRB-M262",
            Self::TooMuchOutput { .. } => "TRB-M263",
            Self::Failed { .. } => "TRB-M264",
        }
    }
}

/// A program's words, fit for a terminal: at most `max` bytes of one line; `default` when there are none.
#[must_use]
pub fn tidy(words: &str, max: usize, default: &str) -> String {
    let mut text: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.len() > max {
        let end = (0..=max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
    }
    let text = text.trim();
    if text.is_empty() { default.to_owned() } else { text.to_owned() }
}

/// A process and its group. The group is killed when this goes, while the unreaped leader still keeps its number from being given away.
struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn kill(&self) {
        if let Some(leader) = self.leader {
            // It may be over already.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Program {
    /// Runs the program to its end; returns what it wrote. When this returns, the program and all of its group are gone.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub async fn run(&self, input: Vec<u8>) -> Result<Vec<u8>, ProgramError> {
        let start = |reason: String| ProgramError::Start { program: self.path.clone(), reason };
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        let mut child = command.spawn().map_err(|error| start(error.to_string()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut group = Group { child, leader };
        let (Some(mut stdin), Some(stdout), Some(stderr), Some(leader)) = (stdin, stdout, stderr, leader) else {
            return Err(start("it has no pipes".to_owned()));
        };

        // Waits without reaping, so that the group's number stays taken until the rest of the group is killed.
        let ended = tokio::task::spawn_blocking(move || {
            while let Err(rustix::io::Errno::INTR) =
                waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {}
        });
        let write = async {
            // A program need not read what it doesn't care for.
            let _ = stdin.write_all(&input).await;
            drop(stdin);
        };
        let read = async {
            let mut output = Vec::new();
            let mut limited = stdout.take(self.max_output as u64 + 1);
            let _ = limited.read_to_end(&mut output).await;
            if output.len() > self.max_output {
                group.kill();
            }
            output
        };
        let end = async {
            let _ = ended.await;
            // What it started and left behind holds the pipes open.
            group.kill();
        };
        let talk = async { tokio::join!(write, read, complaints(stderr), end) };
        let talked = timeout(self.time_limit, talk).await;
        group.kill();
        let status = timeout(REAP_LIMIT, group.child.wait()).await;
        if status.is_ok() {
            group.leader = None;
        }
        let Ok(((), output, complaint, ())) = talked else {
            return Err(ProgramError::Late { limit_ms: self.time_limit.as_millis() });
        };
        if !complaint.is_empty() {
            let words = tidy(&String::from_utf8_lossy(&complaint), MAX_COMPLAINT_BYTES, "");
            tracing::info!(program = %self.path.display(), stderr = %words, "a program complains");
        }
        if output.len() > self.max_output {
            return Err(ProgramError::TooMuchOutput { max: self.max_output });
        }
        match status {
            Ok(Ok(status)) if status.success() => Ok(output),
            Ok(Ok(status)) => Err(ProgramError::Failed { status }),
            Ok(Err(error)) => Err(start(error.to_string())),
            Err(_) => Err(ProgramError::Late { limit_ms: self.time_limit.as_millis() }),
        }
    }
}

/// Reads everything, keeps the beginning.
async fn complaints(mut stderr: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        let room = MAX_COMPLAINT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
    kept
}
