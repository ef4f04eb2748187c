//! The nullifier store: atomic, exactly once, and never forgetting more than its floor stands for.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use tributary_protocol::{Owner, PoolClock, Seconds, Slot, TicketNullifier, UnixTime};
use tributary_provider::store::{
    NullifierStore, OnMissing, Outcome, Recovery, RequestDigest, Reservation, Reserved, StoreError, StoreOptions,
    Ticket,
};

const L: u64 = 60;
/// A slot well after 1970.
const S: u64 = 1_700_000_040;

fn at(seconds: u64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

fn slot(n: u64) -> Slot {
    let [length, notice, margin] = [L, 150, 30].map(|s| Seconds::new(s).unwrap());
    PoolClock::new(length, notice, margin).unwrap().slot_at(at(S + n * L)).unwrap()
}

fn start(n: u64) -> UnixTime {
    slot(n).start()
}

fn nf(n: u32) -> TicketNullifier {
    let mut b = [0; 32];
    b[28..].copy_from_slice(&n.to_be_bytes());
    b[0] = 1;
    TicketNullifier::try_from_be_bytes(&b).unwrap()
}

fn payee(n: u8) -> Owner {
    let mut b = [0; 32];
    b[31] = n;
    Owner::try_from_be_bytes(&b).unwrap()
}

fn digest(n: u8) -> RequestDigest {
    RequestDigest([n; 32])
}

fn options(on_missing: OnMissing, now: u64) -> StoreOptions {
    StoreOptions::new(on_missing, at(now), start((now - S) / L + 1))
}

async fn create(path: &Path) -> NullifierStore {
    NullifierStore::open(path, payee(1), options(OnMissing::NewPayee, S)).await.unwrap()
}

async fn reopen(path: &Path, now: u64) -> NullifierStore {
    NullifierStore::open(path, payee(1), options(OnMissing::Refuse, now)).await.unwrap()
}

async fn reserve(store: &NullifierStore, slot: Slot, nfs: &[u32], request: u8) -> Reserved {
    store
        .reserve(Reservation {
            slot,
            nullifiers: nfs.iter().map(|n| nf(*n)).collect(),
            request: digest(request),
            now: slot.start(),
        })
        .await
        .unwrap()
}

fn new(reserved: Reserved) -> Ticket {
    match reserved {
        Reserved::New(ticket) => ticket,
        other => panic!("not reserved: {other:?}"),
    }
}

#[tokio::test]
async fn a_nullifier_is_spent_once_and_remembers_its_request() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("db")).await;
    let ticket = new(reserve(&store, slot(0), &[1], 7).await);
    match reserve(&store, slot(0), &[1], 8).await {
        Reserved::Spent { nullifier, spent } => {
            assert_eq!(nullifier, nf(1));
            assert_eq!((spent.request, spent.outcome), (digest(7), Outcome::InProgress));
        }
        other => panic!("{other:?}"),
    }
    ticket.served().await.unwrap();
    assert_eq!(store.lookup(slot(0), &nf(1)).await.unwrap().unwrap().outcome, Outcome::Served);
    // The same nullifier in another slot is another key.
    new(reserve(&store, slot(1), &[1], 8).await).failed().await.unwrap();
    assert_eq!(store.lookup(slot(1), &nf(1)).await.unwrap().unwrap().outcome, Outcome::Failed);
}

#[tokio::test]
async fn a_ticket_is_stored_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("db")).await;
    new(reserve(&store, slot(0), &[3], 1).await).served().await.unwrap();
    assert!(
        matches!(reserve(&store, slot(0), &[1, 2, 3, 4], 2).await, Reserved::Spent { nullifier, .. } if nullifier == nf(3))
    );
    assert_eq!(store.stored().await.unwrap(), 1);
    for n in [1, 2, 4] {
        assert_eq!(store.lookup(slot(0), &nf(n)).await.unwrap(), None, "nullifier {n} stayed behind");
    }
    new(reserve(&store, slot(0), &[1, 2], 3).await).served().await.unwrap();
    // A ticket that names one nullifier twice stores nothing.
    assert!(matches!(reserve(&store, slot(0), &[9, 9], 4).await, Reserved::Spent { .. }));
    assert_eq!(store.lookup(slot(0), &nf(9)).await.unwrap(), None);
    let none = Reservation { slot: slot(0), nullifiers: vec![], request: digest(0), now: at(S) };
    assert!(matches!(store.reserve(none).await, Err(StoreError::Count { found: 0 })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_racing_requests_exactly_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("db")).await;
    for round in 0..20 {
        let mut racers = Vec::new();
        for request in 0..16 {
            let store = store.clone();
            racers.push(tokio::spawn(async move {
                match reserve(&store, slot(0), &[round], request).await {
                    Reserved::New(t) => t.served().await.map(|()| true).unwrap(),
                    Reserved::Spent { .. } => false,
                    other => panic!("{other:?}"),
                }
            }));
        }
        let mut wins = 0;
        for r in racers {
            wins += u32::from(r.await.unwrap());
        }
        assert_eq!(wins, 1, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tickets_that_arrive_together_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&dir.path().join("db")).await;
    let mut waiting = Vec::new();
    for n in 0..1000 {
        let store = store.clone();
        waiting.push(tokio::spawn(async move { new(reserve(&store, slot(0), &[n], 1).await).served().await.unwrap() }));
    }
    for w in waiting {
        w.await.unwrap();
    }
    assert_eq!(store.stored().await.unwrap(), 1000);
    assert!(store.commits() < 500, "{} commits for 1000 tickets", store.commits());
}

#[tokio::test]
async fn one_store_belongs_to_one_payee_and_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let missing = NullifierStore::open(&path, payee(1), options(OnMissing::Refuse, S)).await.unwrap_err();
    assert_eq!(missing.code(), "TRB-5001");
    let store = create(&path).await;
    let busy = NullifierStore::open(&path, payee(1), options(OnMissing::Refuse, S)).await.unwrap_err();
    assert_eq!(busy.code(), "TRB-5003", "{busy}");
    store.close().await;
    let other = NullifierStore::open(&path, payee(2), options(OnMissing::Refuse, S)).await.unwrap_err();
    assert_eq!(other.code(), "TRB-5002", "{other}");
    // Nor may another payee take over the place of a lost database.
    std::fs::remove_file(&path).unwrap();
    let other = NullifierStore::open(&path, payee(2), options(OnMissing::NewPayee, S)).await.unwrap_err();
    assert_eq!(other.code(), "TRB-5002", "{other}");
}

#[tokio::test]
async fn pruning_raises_the_floor_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = create(&path).await;
    for n in 0..5 {
        new(reserve(&store, slot(u64::from(n)), &[n], 1).await).served().await.unwrap();
    }
    store.prune(Some(start(2)), at(S + 5 * L)).await.unwrap();
    assert_eq!(store.floor(), Some(start(2)));
    // A replay in a pruned slot is refused by the floor; so is an honest ticket there.
    for n in [0, 1, 2, 77] {
        let place = u64::from(n).min(2);
        assert!(
            matches!(reserve(&store, slot(place), &[n], 9).await, Reserved::BelowFloor { floor } if floor == start(2))
        );
    }
    assert!(matches!(reserve(&store, slot(3), &[3], 9).await, Reserved::Spent { .. }));
    // The floor never falls, whatever is asked.
    store.prune(Some(start(1)), at(S)).await.unwrap();
    assert_eq!(store.floor(), Some(start(2)));
    store.close().await;
    let store = reopen(&path, S + 5 * L).await;
    assert_eq!((store.floor(), store.recovery()), (Some(start(2)), None));
    // Rows go in small steps between other work.
    while store.stored().await.unwrap() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.stored().await.unwrap(), 2);
    assert!(matches!(reserve(&store, slot(1), &[1], 9).await, Reserved::BelowFloor { .. }));
}

#[tokio::test]
async fn a_clock_that_steps_back_forgets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = create(&path).await;
    new(reserve(&store, slot(0), &[1], 1).await).served().await.unwrap();
    new(reserve(&store, slot(9), &[2], 1).await).served().await.unwrap();
    store.prune(Some(start(0)), at(S + 9 * L)).await.unwrap();
    store.close().await;
    let store = reopen(&path, S).await;
    assert!(matches!(reserve(&store, slot(0), &[1], 9).await, Reserved::BelowFloor { .. }));
    assert!(matches!(reserve(&store, slot(9), &[2], 9).await, Reserved::Spent { .. }));
}

#[tokio::test]
async fn memory_is_a_front_and_the_database_the_truth() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let small = StoreOptions { front_capacity: 3, ..options(OnMissing::NewPayee, S) };
    let store = NullifierStore::open(&path, payee(1), small).await.unwrap();
    for n in 0..10 {
        new(reserve(&store, slot(0), &[n], 1).await).served().await.unwrap();
    }
    assert_eq!(store.in_memory(), 3);
    for n in 0..10 {
        assert_eq!(store.lookup(slot(0), &nf(n)).await.unwrap().unwrap().outcome, Outcome::Served, "nullifier {n}");
        assert!(matches!(reserve(&store, slot(0), &[n], 9).await, Reserved::Spent { .. }));
    }
    assert_eq!(store.lookup(slot(0), &nf(11)).await.unwrap(), None);
    store.close().await;
    let store =
        NullifierStore::open(&path, payee(1), StoreOptions { front_capacity: 4, ..options(OnMissing::Refuse, S) })
            .await
            .unwrap();
    assert_eq!(store.in_memory(), 4);
    for n in 0..10 {
        assert!(store.lookup(slot(0), &nf(n)).await.unwrap().is_some(), "nullifier {n}");
    }
}

/// Copies the database as a careless backup would, without its witness.
fn back_up(path: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path.display());
        if Path::new(&from).exists() {
            std::fs::copy(&from, format!("{}{suffix}", to.display())).unwrap();
        }
    }
}

fn restore(backup: &Path, path: &Path) {
    for suffix in ["", "-wal"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    back_up(backup, path);
}

#[tokio::test]
async fn a_restored_backup_is_recognised_and_its_slots_stay_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("db"), dir.path().join("backup"));
    let store = create(&path).await;
    new(reserve(&store, slot(0), &[1], 1).await).served().await.unwrap();
    back_up(&path, &backup);
    // In the same slot, in the same run of the process, seconds later.
    new(reserve(&store, slot(0), &[2], 1).await).served().await.unwrap();
    new(reserve(&store, slot(1), &[3], 1).await).served().await.unwrap();
    store.close().await;
    restore(&backup, &path);

    let store = reopen(&path, S + 1).await;
    assert_eq!(store.recovery(), Some(Recovery::RestoredDatabase));
    assert_eq!(store.floor(), Some(start(1)));
    for (place, n) in [(0, 1), (0, 2), (1, 3)] {
        assert!(matches!(reserve(&store, slot(place), &[n], 9).await, Reserved::BelowFloor { .. }), "nullifier {n}");
    }
    new(reserve(&store, slot(2), &[4], 1).await).served().await.unwrap();
    store.close().await;
    // Restoring it again, after the pruning and with the clock set back, changes nothing.
    restore(&backup, &path);
    let store = reopen(&path, S).await;
    assert_eq!((store.recovery(), store.floor()), (Some(Recovery::RestoredDatabase), Some(start(2))));
}

#[tokio::test]
async fn a_backup_from_before_the_pruning_keeps_the_floor() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("db"), dir.path().join("backup"));
    let store = create(&path).await;
    new(reserve(&store, slot(0), &[1], 1).await).served().await.unwrap();
    back_up(&path, &backup);
    store.prune(Some(start(4)), at(S + 6 * L)).await.unwrap();
    store.close().await;
    restore(&backup, &path);
    let store = reopen(&path, S).await;
    assert_eq!(store.floor(), Some(start(4)));
}

#[tokio::test]
async fn without_its_witness_a_store_closes_every_slot_up_to_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = create(&path).await;
    new(reserve(&store, slot(0), &[1], 1).await).served().await.unwrap();
    store.close().await;
    std::fs::remove_file(dir.path().join("db.witness")).unwrap();
    let store = reopen(&path, S + 3 * L).await;
    assert_eq!((store.recovery(), store.floor()), (Some(Recovery::NoWitness), Some(start(4))));
}

#[tokio::test]
async fn a_lost_database_closes_what_the_witness_saw() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = create(&path).await;
    new(reserve(&store, slot(3), &[1], 1).await).served().await.unwrap();
    store.close().await;
    std::fs::remove_file(&path).unwrap();
    let store = NullifierStore::open(&path, payee(1), options(OnMissing::NewPayee, S)).await.unwrap();
    assert_eq!((store.recovery(), store.floor()), (Some(Recovery::LostDatabase), Some(start(3))));
    store.close().await;
    for file in ["db", "db.witness"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    let store = NullifierStore::open(&path, payee(1), options(OnMissing::Lost, S + 9 * L)).await.unwrap();
    assert_eq!((store.recovery(), store.floor()), (Some(Recovery::LostDatabase), Some(start(10))));
}

#[tokio::test]
async fn a_whole_snapshot_put_back_later_is_caught_by_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = create(&path).await;
    new(reserve(&store, slot(0), &[1], 1).await).served().await.unwrap();
    store.close().await;
    let store = reopen(&path, S + 100).await;
    assert_eq!(store.recovery(), None, "a restart");
    store.close().await;
    let store = reopen(&path, S + 400).await;
    assert_eq!((store.recovery(), store.floor()), (Some(Recovery::LongGap), Some(start(7))));
}

const CHILD: &str = "TRIBUTARY_TEST_STORE_CHILD";

/// Not a test by itself: the process that [`a_killed_process_forgets_no_nullifier`] kills.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = create(Path::new(&path)).await;
    new(reserve(&store, slot(0), &[1], 1).await).served().await.unwrap();
    let _held = new(reserve(&store, slot(0), &[2, 3], 2).await);
    println!("\nstored");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_forgets_no_nullifier() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "stored"));
    child.kill().unwrap();
    child.wait().unwrap();

    let store = reopen(&path, S + 1).await;
    assert_eq!(store.recovery(), None);
    let outcome = async |n| store.lookup(slot(0), &nf(n)).await.unwrap().unwrap();
    assert_eq!(outcome(1).await.outcome, Outcome::Served);
    for n in [2, 3] {
        let spent = outcome(n).await;
        assert_eq!((spent.outcome, spent.request), (Outcome::Interrupted, digest(2)));
        assert!(matches!(reserve(&store, slot(0), &[n], 2).await, Reserved::Spent { .. }));
    }
}

#[tokio::test]
async fn a_dropped_ticket_counts_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = create(&path).await;
    drop(new(reserve(&store, slot(0), &[1], 1).await));
    assert_eq!(store.lookup(slot(0), &nf(1)).await.unwrap().unwrap().outcome, Outcome::Failed);
    store.close().await;
    let store = reopen(&path, S).await;
    assert_eq!(store.lookup(slot(0), &nf(1)).await.unwrap().unwrap().outcome, Outcome::Failed);
}
