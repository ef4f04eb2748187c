//! From the bytes of tokens to text that can be sent: whole characters, up to a stop text.

use zeroize::Zeroizing;

/// Makes text of tokens' bytes. What could be the beginning of a stop text, or of a character, is held back.
#[derive(Debug)]
pub(super) struct Assembler {
    stops: Vec<String>,
    /// Bytes of a character that isn't whole yet, at most three.
    tail: Vec<u8>,
    pending: Zeroizing<String>,
}

/// What became of a token's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// This can be sent now; it may be empty.
    Ready(String),
    /// A stop text came: this is the rest before it.
    Stopped(String),
}

impl Assembler {
    /// For an answer that ends at any of these. Empty ones are left out.
    pub(super) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, tail: Vec::new(), pending: Zeroizing::default() }
    }

    /// Takes the bytes of the next token.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Text {
        self.tail.extend_from_slice(bytes);
        self.decode();
        let stop = self.stops.iter().filter_map(|stop| self.pending.find(stop.as_str())).min();
        if let Some(at) = stop {
            self.tail.clear();
            self.pending.truncate(at);
            return Text::Stopped(std::mem::take(&mut *self.pending));
        }
        let held = self.stops.iter().map(|stop| overlap(&self.pending, stop)).max().unwrap_or(0);
        let ready = self.pending.len() - held;
        Text::Ready(self.pending.drain(..ready).collect())
    }

    /// The rest, when nothing follows. Bytes of a character that stayed incomplete become the replacement character.
    pub(super) fn end(&mut self) -> String {
        if !self.tail.is_empty() {
            self.tail.clear();
            self.pending.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut *self.pending)
    }

    /// Moves the whole characters of the tail to the pending text; bytes that begin none become the replacement character.
    fn decode(&mut self) {
        loop {
            match std::str::from_utf8(&self.tail) {
                Ok(text) => {
                    self.pending.push_str(text);
                    self.tail.clear();
                    return;
                }
                Err(error) => {
                    let (valid, rest) = self.tail.split_at(error.valid_up_to());
                    self.pending.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    let Some(wrong) = error.error_len() else {
                        self.tail = rest.to_vec();
                        return;
                    };
                    self.pending.push(char::REPLACEMENT_CHARACTER);
                    self.tail = rest[wrong..].to_vec();
                }
            }
        }
    }
}

/// Bytes of the longest end of `text` that `stop` begins with, without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|at| text.ends_with(&stop[..*at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(text: &str) -> Text {
        Text::Ready(text.into())
    }

    #[test]
    fn a_character_is_sent_when_it_is_whole() {
        let mut text = Assembler::new(&[]);
        let snowman = "☃".as_bytes();
        assert_eq!(text.push(b"a"), ready("a"));
        assert_eq!(text.push(&snowman[..1]), ready(""));
        assert_eq!(text.push(&snowman[1..2]), ready(""));
        assert_eq!(text.push(&[snowman[2], b'b', snowman[0]]), ready("☃b"));
        assert_eq!(text.end(), "\u{fffd}");
        assert_eq!(text.end(), "");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut text = Assembler::new(&[]);
        assert_eq!(text.push(b"a\xffb\xc3"), ready("a\u{fffd}b"));
        assert_eq!(text.push(b"("), ready("\u{fffd}("));
    }

    #[test]
    fn a_stop_text_is_found_across_tokens_and_left_out() {
        let mut text = Assembler::new(&["</end>".into(), "☃☃".into(), String::new()]);
        assert_eq!(text.push(b"one <"), ready("one "));
        assert_eq!(text.push(b"/en"), ready(""));
        assert_eq!(text.push(b"try <"), ready("</entry "));
        assert_eq!(text.push("☃".as_bytes()), ready("<"));
        assert_eq!(text.push(b" </end> more"), Text::Stopped("☃ ".into()));
        assert_eq!(text.end(), "");
    }

    #[test]
    fn the_first_of_several_stop_texts_counts_and_what_was_held_back_comes_at_the_end() {
        let mut text = Assembler::new(&["three".into(), "two".into()]);
        assert_eq!(text.push(b"one two three"), Text::Stopped("one ".into()));
        let mut text = Assembler::new(&["three".into()]);
        assert_eq!(text.push(b"one thre"), ready("one "));
        assert_eq!(text.end(), "thre");
    }
}
