//! What commands print: lines for people, one JSON object for programs.

use std::{fmt::Write as _, sync::OnceLock, time::Instant};

use serde_json::Value;

/// When the program started, as of the first call.
pub(crate) fn started() -> Instant {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Aligned text.
    Text,
    /// One JSON document on standard output.
    Json,
}

impl Format {
    /// Prints a result on standard output: `text` for people, `value` for programs.
    pub(crate) fn emit(self, text: &str, value: &Value) {
        match self {
            Self::Text => println!("{text}"),
            Self::Json => println!("{value}"),
        }
    }

    /// Prints a line about work in progress on standard error, with the time since the start; silent for JSON.
    pub(crate) fn progress(self, line: &str) {
        if self == Self::Text {
            eprintln!("  {:5.1} s  {line}", started().elapsed().as_secs_f64());
        }
    }
}

/// Rows of labelled values, aligned.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Starts without rows.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a row.
    #[allow(clippy::needless_pass_by_value, reason = "callers write values, not references")]
    #[must_use]
    pub(crate) fn row(mut self, label: impl Into<String>, value: impl ToString) -> Self {
        self.0.push((label.into(), value.to_string()));
        self
    }

    /// The rows as text.
    pub(crate) fn text(&self) -> String {
        let width = self.0.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for (label, value) in &self.0 {
            let _ = writeln!(out, "{label:<width$}  {value}");
        }
        out.trim_end().to_owned()
    }
}

/// A table with a header; columns are as wide as their widest cell.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for (cell, &width) in cells.iter().zip(&widths) {
            let _ = write!(out, "{cell:<width$}  ");
        }
        out.trim_end().to_owned()
    };
    let mut out = vec![line(header.to_vec())];
    out.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    out.join("\n")
}

/// An amount of base units with the token's decimals and symbol, e.g. `1.500000 tUSD`.
pub(crate) fn tokens(base_units: u128, decimals: u8, symbol: &str) -> String {
    let scale = 10u128.pow(u32::from(decimals));
    format!("{}.{:0width$} {symbol}", base_units / scale, base_units % scale, width = usize::from(decimals))
}

/// Parses what a person types as an amount: `1.5` in tokens. More decimals than the token has are refused.
pub(crate) fn parse_tokens(text: &str, decimals: u8) -> Result<u128, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > usize::from(decimals) {
        return Err(format!("'{text}' has {} decimals, the token has {decimals}", fraction.len()));
    }
    let digits = format!("{whole}{fraction:0<width$}", width = usize::from(decimals));
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("'{text}' is not an amount such as 12.5"));
    }
    digits.parse().map_err(|_| format!("'{text}' is too large"))
}

#[cfg(test)]
mod tests {
    use super::{parse_tokens, table, tokens};

    #[test]
    fn amounts_round_trip() {
        assert_eq!(tokens(1_500_000, 6, "tUSD"), "1.500000 tUSD");
        assert_eq!(parse_tokens("1.5", 6), Ok(1_500_000));
        assert_eq!(parse_tokens("12", 6), Ok(12_000_000));
        assert_eq!(parse_tokens("0.000001", 6), Ok(1));
    }

    #[test]
    fn bad_amounts_are_refused() {
        assert!(parse_tokens("1.0000001", 6).unwrap_err().contains("7 decimals"));
        assert!(parse_tokens("-1", 6).unwrap_err().contains("is not an amount"));
        assert!(parse_tokens("", 0).unwrap_err().contains("is not an amount"));
        assert!(parse_tokens(&"9".repeat(60), 0).unwrap_err().contains("too large"));
    }

    #[test]
    fn tables_align() {
        let text = table(&["a", "long"], &[vec!["wide cell".into(), "x".into()]]);
        assert_eq!(text, "a          long\nwide cell  x");
    }
}
