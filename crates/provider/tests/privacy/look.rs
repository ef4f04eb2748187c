//! How two histories are looked at: fields on the wire, columns of a database, lines of a log.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tracing_subscriber::fmt::MakeWriter;

/// Every field of a protobuf message by its number, whatever the schema says of it; those named in `nested` are looked into.
pub(crate) fn fields(bytes: &[u8], prefix: &str, nested: &[&str], out: &mut BTreeMap<String, Vec<u8>>) {
    let mut at = 0;
    let varint = |at: &mut usize| {
        let mut value = 0_u64;
        for shift in (0..).step_by(7) {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    };
    while at < bytes.len() {
        let tag = varint(&mut at);
        let name = format!("{prefix}{}", tag >> 3);
        let value = match tag & 7 {
            0 => varint(&mut at).to_be_bytes().to_vec(),
            2 => {
                let length = usize::try_from(varint(&mut at)).unwrap();
                at += length;
                bytes[at - length..at].to_vec()
            }
            other => panic!("field {name} has wire type {other}, which no message of this program has"),
        };
        if nested.contains(&name.as_str()) {
            fields(&value, &format!("{name}."), nested, out);
            continue;
        }
        // Repeated fields get a place each.
        let place = (0..).map(|n| format!("{name}[{n}]")).find(|key| !out.contains_key(key)).unwrap();
        out.insert(place, value);
    }
}

/// Each column of each table, its values sorted: rows have no order of their own.
pub(crate) async fn database(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut db = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    let mut out = BTreeMap::new();
    for (table, column) in columns {
        let query = format!("SELECT quote(\"{column}\") FROM \"{table}\" ORDER BY 1");
        let values: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(&mut db).await.unwrap();
        out.insert(format!("{table}.{column}"), values);
    }
    db.close().await.unwrap();
    out
}

/// The files of a provider's folder. Of its database only the names count: that is compared by column.
pub(crate) fn files(folder: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let whole = !name.starts_with("nullifiers.db") || name.ends_with(".witness");
        (name, whole.then(|| std::fs::read(entry.path()).unwrap()))
    };
    std::fs::read_dir(folder).unwrap().map(file).collect()
}

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// The lines since, sorted: tasks have no order among themselves.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            String::from_utf8(self.0.lock().clone()).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}
