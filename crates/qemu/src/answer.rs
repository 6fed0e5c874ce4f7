//! Answers to what a guest asks on its console: passphrases.

use std::collections::VecDeque;
use std::io::Write;

/// How many of the console's last bytes a prompt is looked for in.
const LOOKED_AT: usize = 4096;

/// What is typed when the guest prints a prompt. It need not end its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The prompt, or a part of it without terminal escapes within.
    pub prompt: String,
    /// What is typed, without the line's end.
    pub text: String,
}

impl Answer {
    /// `text`, typed when `prompt` comes.
    #[must_use]
    pub fn new(prompt: &str, text: &str) -> Self {
        Self {
            prompt: prompt.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// Answers one after the other: a prompt counts when it comes after the one
/// before was answered.
pub(crate) struct Typist<W> {
    left: VecDeque<Answer>,
    recent: Vec<u8>,
    keyboard: W,
}

impl<W: Write> Typist<W> {
    pub(crate) fn new(answers: Vec<Answer>, keyboard: W) -> Self {
        Self {
            left: answers.into(),
            recent: Vec::new(),
            keyboard,
        }
    }

    /// Takes the console's next bytes.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        self.recent.extend_from_slice(bytes);
        while let Some(answer) = self.left.front() {
            let Some(end) = end_of(&self.recent, answer.prompt.as_bytes()) else {
                break;
            };
            // A guest that is gone shows in the console's end.
            let _ = writeln!(self.keyboard, "{}", answer.text).and_then(|()| self.keyboard.flush());
            self.recent.drain(..end);
            self.left.pop_front();
        }
        let excess = self.recent.len().saturating_sub(LOOKED_AT);
        self.recent.drain(..excess);
    }
}

/// Where the first `part` in `bytes` ends.
fn end_of(bytes: &[u8], part: &[u8]) -> Option<usize> {
    let windows = bytes.windows(part.len().max(1));
    windows
        .enumerate()
        .find_map(|(at, window)| (window == part).then(|| at + part.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prompt_is_answered_once_and_in_order() {
        let answers = vec![Answer::new("phrase: ", "one"), Answer::new("phrase", "two")];
        let mut typist = Typist::new(answers, Vec::new());
        typist.read(b"Please enter pass");
        assert!(typist.keyboard.is_empty());
        typist.read(b"phrase: ");
        assert_eq!(typist.keyboard, b"one\n");
        typist.read(&vec![b'*'; 3 * LOOKED_AT]);
        assert_eq!(typist.recent.len(), LOOKED_AT);
        typist.read(b"Wrong. The passphrase: passphrase: ");
        assert_eq!(typist.keyboard, b"one\ntwo\n");
        typist.read(b"passphrase: ");
        assert_eq!(typist.keyboard, b"one\ntwo\n");
    }
}
