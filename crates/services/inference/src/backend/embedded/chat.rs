//! How a conversation is put to a model: its form, and its tokens.

use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf as _;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use zeroize::Zeroizing;

use crate::api::ChatMessage;

/// Begins a turn of ChatML.
const START: &str = "<|im_start|>";
/// Ends one.
const END: &str = "<|im_end|>";
/// Ends a text, where a model says that instead.
const END_OF_TEXT: &str = "<|endoftext|>";
/// Ways to split a text before its tokens are sought that are known here. The first is done here, the others are candle's.
const SPLITS: [&str; 4] = ["smollm", "llama3", "smaug-bpe", "qwen2"];

/// A model's tokens, and its form of a conversation: ChatML.
pub(super) struct Chat {
    tokenizer: Tokenizer,
    /// The bytes of each token; none for control tokens.
    bytes: Vec<Box<[u8]>>,
    control: Vec<bool>,
    start: u32,
    end: u32,
    end_of_text: Option<u32>,
    /// Instructions where a conversation begins without.
    instructions: Option<String>,
}

impl Chat {
    /// Reads both from a model's file.
    ///
    /// # Errors
    /// What is missing or unknown, in words.
    pub(super) fn read(content: &Content) -> Result<Self, String> {
        let text = |key: &str| match content.metadata.get(key) {
            Some(Value::String(text)) => Ok(text.as_str()),
            _ => Err(format!("it has no {key}")),
        };
        let split = text("tokenizer.ggml.pre")?;
        if !SPLITS.contains(&split) {
            return Err(format!("its tokenizer {split:?} is none of {}", SPLITS.join(", ")));
        }
        let instructions = instructions(text("tokenizer.chat_template")?)?;
        let (words, kinds) = (list(content, "tokenizer.ggml.tokens")?, list(content, "tokenizer.ggml.token_type")?);
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_string().ok()).map(String::as_str).collect();
        if words.len() != kinds.len() {
            return Err(format!("it has {} tokens and {} types of them", words.len(), kinds.len()));
        }
        // 1 is an ordinary token.
        let control: Vec<bool> = kinds.iter().map(|kind| !matches!(kind, Value::I32(1) | Value::U32(1))).collect();
        let find = |name: &str| {
            let at = words.iter().zip(&control).position(|(word, control)| *control && *word == name)?;
            u32::try_from(at).ok()
        };
        let wanted = |name: &str| find(name).ok_or_else(|| format!("it has no token {name}"));
        let (start, end, end_of_text) = (wanted(START)?, wanted(END)?, find(END_OF_TEXT));
        let mut tokenizer = Tokenizer::from_gguf(content).map_err(|error| error.to_string())?;
        if split == SPLITS[0] {
            let (digits, bytes) = (Digits::new(true), ByteLevel::new(false, true, true));
            tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![digits.into(), bytes.into()])));
        }
        // A control token in a message is text like any other: nobody begins a turn by writing so.
        tokenizer.set_encode_special_tokens(true);
        // It would keep words of prompts.
        if let ModelWrapper::BPE(model) = tokenizer.get_model() {
            let mut model = model.clone();
            model.resize_cache(0);
            tokenizer.with_model(model);
        }
        let spelt = spelling();
        let bytes = words
            .iter()
            .zip(&control)
            .map(|(word, control)| match control {
                true => Box::default(),
                false => word.chars().filter_map(|c| spelt.get(c as usize).copied().flatten()).collect(),
            })
            .collect();
        Ok(Self { tokenizer, bytes, control, start, end, end_of_text, instructions })
    }

    /// The tokens of a conversation, up to where the model's answer begins.
    ///
    /// # Errors
    /// What the tokenizer said.
    pub(super) fn prompt(&self, messages: &[ChatMessage]) -> Result<Zeroizing<Vec<u32>>, String> {
        // Grown at once: a list that moves leaves a copy behind.
        let most: usize = messages.iter().map(|message| message.content.len() + 32).sum();
        let mut tokens =
            Zeroizing::new(Vec::with_capacity(most + self.instructions.as_ref().map_or(32, String::len) + 64));
        if messages.first().is_none_or(|first| first.role != crate::api::Role::System) {
            tokens.extend_from_slice(&self.opening()?);
        }
        for message in messages {
            self.turn(&mut tokens, message.role.as_str(), &message.content)?;
        }
        tokens.push(self.start);
        self.encode(&mut tokens, "assistant\n")?;
        Ok(tokens)
    }

    /// What every conversation without instructions of its own begins with. Empty where there is nothing.
    ///
    /// # Errors
    /// What the tokenizer said.
    pub(super) fn opening(&self) -> Result<Vec<u32>, String> {
        let mut tokens = Vec::new();
        if let Some(instructions) = &self.instructions {
            self.turn(&mut tokens, "system", instructions)?;
        }
        Ok(tokens)
    }

    fn turn(&self, tokens: &mut Vec<u32>, role: &str, content: &str) -> Result<(), String> {
        tokens.push(self.start);
        // Together, as the template has them: a line break and what follows it can be one token.
        let said = Zeroizing::new([role, "\n", content].concat());
        self.encode(tokens, &said)?;
        tokens.push(self.end);
        self.encode(tokens, "\n")
    }

    fn encode(&self, tokens: &mut Vec<u32>, text: &str) -> Result<(), String> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| error.to_string())?;
        // What the vocabulary can't spell may come as a control token, which it isn't.
        tokens.extend(encoding.get_ids().iter().filter(|token| !self.is_control(**token)));
        Ok(())
    }

    fn is_control(&self, token: u32) -> bool {
        self.control.get(token as usize).copied().unwrap_or(true)
    }

    /// Whether the model ends its turn with this, or leaves it.
    pub(super) fn is_end(&self, token: u32) -> bool {
        token == self.end || token == self.start || Some(token) == self.end_of_text
    }

    /// The bytes that a token stands for.
    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }
}

fn list<'a>(content: &'a Content, key: &str) -> Result<&'a Vec<Value>, String> {
    match content.metadata.get(key) {
        Some(Value::Array(list)) => Ok(list),
        _ => Err(format!("it has no {key}")),
    }
}

/// The bytes that byte-level vocabularies write as these characters: printable ones of Latin-1 as themselves, the others from U+0100 on.
fn spelling() -> Vec<Option<u8>> {
    let mut bytes = vec![None; 512];
    let mut next = 256;
    for byte in 0..=u8::MAX {
        let at = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => usize::from(byte),
            _ => {
                next += 1;
                next - 1
            }
        };
        bytes[at] = Some(byte);
    }
    bytes
}

/// The instructions that a template of ChatML begins with where a conversation has none.
///
/// # Errors
/// In words, when the template is another one: a conversation would be put to the model in a form that it doesn't know.
fn instructions(template: &str) -> Result<Option<String>, String> {
    let template = template.replace("\\n", "\n");
    let squeezed = |text: &str| -> String { text.chars().filter(|c| *c != ' ').collect() };
    let turns = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}\
                 {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let found = squeezed(&template);
    if found == squeezed(&format!("{{% for message in messages %}}{turns}")) {
        return Ok(None);
    }
    let begun = template.split_once("<|im_start|>system\n").and_then(|(_, rest)| rest.split_once(END));
    if let Some((said, _)) = begun
        && !said.contains(['\'', '{', '}', '|'])
    {
        let opening = "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n";
        let whole = format!("{{% for message in messages %}}{opening}{said}<|im_end|>\n' }}}}{{% endif %}}{turns}");
        if found == squeezed(&whole) {
            return Ok(Some(said.to_owned()));
        }
    }
    Err("its chat template isn't ChatML as this version knows it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURNS: &str = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}\
                         {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    #[test]
    fn a_template_is_known_or_refused() {
        let plain = format!("{{% for message in messages %}}{TURNS}");
        assert_eq!(instructions(&plain), Ok(None));
        let opening = "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}";
        let whole = format!("{{% for message in messages %}}{opening}{TURNS}");
        assert_eq!(instructions(&whole), Ok(Some("Be kind.".to_owned())));
        let other = "its chat template isn't ChatML as this version knows it".to_owned();
        assert_eq!(instructions(&whole.replace("Be kind.", "' + evil + '")), Err(other.clone()));
        assert_eq!(instructions(&plain.replace("im_start", "start")), Err(other));
    }

    #[test]
    fn every_byte_has_one_spelling() {
        let spelt = spelling();
        let mut bytes: Vec<u8> = spelt.iter().copied().flatten().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>());
        assert_eq!(
            (spelt['a' as usize], spelt['Ġ' as usize], spelt['Ċ' as usize]),
            (Some(b'a'), Some(b' '), Some(b'\n'))
        );
    }
}
