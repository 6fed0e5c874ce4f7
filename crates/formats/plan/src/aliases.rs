//! The alias table: which modules serve a device, compiled.
//!
//! A distribution's storage drivers have some 2600 aliases. To read them one by
//! one costs PID 1 an allocation each, and to try them one by one a match each
//! for every device. So they are a trie over what stands in front of the first
//! wildcard, in one piece of bytes that is used as it lies: a device walks down
//! one path and tries the few patterns on it.
//!
//! # Format
//! Little-endian, no padding. No bytes at all is the table without aliases.
//! Otherwise: the length of the pool (u32), the pool, and the root node to the
//! end. The pool is rests of patterns, each a u16 length and that many bytes,
//! each rest once. A node is:
//!
//! * its label, a u16 length and that many bytes, none of them a wildcard; only
//!   the root's is empty;
//! * a u16 count of patterns, and for each the offset of its rest in the pool
//!   (u32) and its target (u16): the pattern is the labels on the way, then the
//!   rest, which is empty or begins with `*`, `?`, `[` or a backslash;
//! * a u16 count of children, and for each its subtree's length in bytes (u32);
//!   then the children themselves, by the first bytes of their labels, which
//!   are strictly ascending.
//!
//! Every length is exact: what is left over is an error, as is a pattern of
//! more than [`MAX_PATTERN`] bytes or a target out of range.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::{Alias, glob_match};

/// The greatest length of a pattern, in bytes: devices announce themselves by
/// no more than a page.
pub const MAX_PATTERN: usize = 4096;

/// The most patterns of a table.
const MAX_PATTERNS: usize = u16::MAX as usize;

/// Why bytes are not an alias table, or aliases cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasError {
    /// A field has no valid value, or runs over the end.
    Damaged {
        /// Offset in the table, in bytes.
        at: usize,
    },
    /// A pattern is longer than [`MAX_PATTERN`], or there are more than 65535.
    TooLong,
}

impl fmt::Display for AliasError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { at } => write!(f, "the alias table is damaged at byte {at}"),
            Self::TooLong => write!(
                f,
                "an alias has more than {MAX_PATTERN} bytes, or there are more than {MAX_PATTERNS}"
            ),
        }
    }
}

impl core::error::Error for AliasError {}

/// A compiled alias table. Whatever bytes it was read from, looking something up
/// in it ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AliasTable {
    /// Valid, as [`AliasTable::from_bytes`] checks it.
    bytes: Vec<u8>,
}

impl AliasTable {
    /// Compiles aliases. Their order counts where two have the same text in
    /// front of their first wildcard.
    ///
    /// # Errors
    /// [`AliasError::TooLong`].
    pub fn build(aliases: &[Alias]) -> Result<Self, AliasError> {
        let too_long = |alias: &Alias| alias.pattern.len() > MAX_PATTERN;
        if aliases.len() > MAX_PATTERNS || aliases.iter().any(too_long) {
            return Err(AliasError::TooLong);
        }
        if aliases.is_empty() {
            return Ok(Self::default());
        }
        let mut split: Vec<(&[u8], &[u8], u16)> = aliases
            .iter()
            .map(|alias| {
                let bytes = alias.pattern.as_bytes();
                let (literal, rest) = bytes.split_at(literal_len(bytes));
                (literal, rest, alias.module)
            })
            .collect();
        // Stable: of the same literal, in the order given.
        split.sort_by(|a, b| a.0.cmp(b.0));
        let mut pool = Pool::default();
        let patterns: Vec<Pattern<'_>> = split
            .into_iter()
            .map(|(literal, rest, target)| Pattern {
                literal,
                rest: pool.offset(rest),
                target,
            })
            .collect();
        let mut bytes = Vec::new();
        put_u32(&mut bytes, pool.bytes.len());
        bytes.extend_from_slice(&pool.bytes);
        write_nodes(&mut bytes, &patterns);
        Ok(Self { bytes })
    }

    /// The table's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks and takes over a table's bytes; every target must be less than
    /// `targets`.
    ///
    /// # Errors
    /// [`AliasError::Damaged`] with the first place that is wrong.
    pub fn from_bytes(bytes: &[u8], targets: usize) -> Result<Self, AliasError> {
        if !bytes.is_empty() {
            check(bytes, targets)?;
        }
        Ok(Self {
            bytes: bytes.to_vec(),
        })
    }

    /// The targets of all patterns that match, those with the shorter text in
    /// front of their first wildcard first, then in the order in which they
    /// were given. A target comes as often as patterns of it match.
    #[must_use]
    pub fn matches(&self, modalias: &str) -> Vec<u16> {
        let mut found = Vec::new();
        let mut text = modalias.as_bytes();
        let Some((pool, mut at)) = sections(&self.bytes) else {
            return found;
        };
        while let Some(node) = Node::read(&self.bytes, at) {
            let Some(after) = text.strip_prefix(node.label) else {
                break;
            };
            text = after;
            for (rest, target) in node.patterns() {
                if pool_text(pool, rest).is_some_and(|rest| glob_match(rest, text)) {
                    found.push(target);
                }
            }
            let Some(first) = text.first() else {
                break;
            };
            let Some(child) = node.child(&self.bytes, *first) else {
                break;
            };
            at = child;
        }
        found
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes()
            .map(|(_, node)| node.patterns.len() / ENTRY)
            .sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The aliases, by their text in front of the first wildcard.
    #[must_use]
    pub fn aliases(&self) -> Vec<Alias> {
        let Some((pool, _)) = sections(&self.bytes) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for (literal, node) in self.nodes() {
            for (rest, target) in node.patterns() {
                let rest = pool_text(pool, rest).unwrap_or_default();
                all.push(Alias {
                    pattern: String::from_utf8_lossy(&[&literal, rest].concat()).into_owned(),
                    module: target,
                });
            }
        }
        all
    }

    /// The nodes in their order in the bytes, each with its literal.
    fn nodes(&self) -> impl Iterator<Item = (Vec<u8>, Node<'_>)> {
        let mut at = sections(&self.bytes).map(|(_, root)| root);
        // The ends of the subtrees that the walk is in, and how long the literal
        // was outside of them.
        let mut inside: Vec<(usize, usize)> = Vec::new();
        let mut literal = Vec::new();
        core::iter::from_fn(move || {
            let start = at.filter(|start| *start < self.bytes.len())?;
            while inside.last().is_some_and(|&(end, _)| end <= start) {
                literal.truncate(inside.pop().map_or(0, |(_, len)| len));
            }
            let node = Node::read(&self.bytes, start)?;
            inside.push((node.end(), literal.len()));
            literal.extend_from_slice(node.label);
            at = Some(node.first_child);
            Some((literal.clone(), node))
        })
    }
}

/// How long the part of a pattern is that is taken as it is.
fn literal_len(pattern: &[u8]) -> usize {
    pattern
        .iter()
        .position(|byte| is_wildcard(*byte))
        .unwrap_or(pattern.len())
}

fn is_wildcard(byte: u8) -> bool {
    matches!(byte, b'*' | b'?' | b'[' | b'\\')
}

/// Bytes of a pattern's entry in its node, and of a child's.
const ENTRY: usize = 6;
const CHILD: usize = 4;

/// The pool, and where the root node begins.
fn sections(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let len = get_u32(bytes, 0)?;
    let root = len.checked_add(4)?;
    Some((bytes.get(4..root)?, root))
}

fn pool_text(pool: &[u8], at: usize) -> Option<&[u8]> {
    let len = get_u16(pool, at)?;
    let start = at.checked_add(2)?;
    pool.get(start..start.checked_add(len)?)
}

fn get_u16(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_le_bytes(*bytes).into())
}

fn get_u32(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

/// A node as it lies in the bytes.
#[derive(Clone, Copy)]
struct Node<'b> {
    label: &'b [u8],
    /// The patterns' entries.
    patterns: &'b [u8],
    /// The lengths of the children's subtrees.
    children: &'b [u8],
    /// Where the first child begins.
    first_child: usize,
}

impl<'b> Node<'b> {
    /// The node at `at`; `None` if its own fields run over the end.
    fn read(bytes: &'b [u8], at: usize) -> Option<Self> {
        let mut at = at;
        let mut list = |item: usize| {
            let len = get_u16(bytes, at)?.checked_mul(item)?;
            let start = at.checked_add(2)?;
            at = start.checked_add(len)?;
            bytes.get(start..at)
        };
        let (label, patterns, children) = (list(1)?, list(ENTRY)?, list(CHILD)?);
        Some(Self {
            label,
            patterns,
            children,
            first_child: at,
        })
    }

    /// Each pattern's rest, as an offset in the pool, and its target.
    fn patterns(&self) -> impl Iterator<Item = (usize, u16)> + 'b {
        self.patterns.chunks_exact(ENTRY).filter_map(|entry| {
            let target = get_u16(entry, 4)?;
            Some((get_u32(entry, 0)?, u16::try_from(target).ok()?))
        })
    }

    /// The lengths of the children's subtrees.
    fn children(&self) -> impl Iterator<Item = usize> + 'b {
        self.children
            .chunks_exact(CHILD)
            .filter_map(|child| get_u32(child, 0))
    }

    /// Where the child whose label begins with `first` lies.
    fn child(&self, bytes: &[u8], first: u8) -> Option<usize> {
        let mut at = self.first_child;
        for len in self.children() {
            if bytes.get(at.checked_add(2)?) == Some(&first) {
                return Some(at);
            }
            at = at.checked_add(len)?;
        }
        None
    }

    /// Where its subtree ends.
    fn end(&self) -> usize {
        self.children()
            .fold(self.first_child, |end, len| end.saturating_add(len))
    }
}

/// A subtree that [`check`] is in.
struct Open<'b> {
    /// Where it ends.
    end: usize,
    /// Length of its node's literal.
    depth: usize,
    /// The lengths of the children that are still to come.
    lengths: &'b [u8],
    /// What the label of the last child began with.
    last: Option<u8>,
}

/// Checks what the module's documentation promises; looks at each node once.
fn check(bytes: &[u8], targets: usize) -> Result<(), AliasError> {
    let damaged = |at| AliasError::Damaged { at };
    let (pool, root) = sections(bytes).ok_or(damaged(0))?;
    let mut inside: Vec<Open<'_>> = Vec::new();
    let mut at = root;
    let mut count = 0usize;
    loop {
        let node = Node::read(bytes, at).ok_or(damaged(at))?;
        let (end, above, good) = match inside.last_mut() {
            None => (bytes.len(), 0, node.label.is_empty()),
            Some(parent) => {
                let (len, lengths) = parent.lengths.split_at_checked(CHILD).ok_or(damaged(at))?;
                parent.lengths = lengths;
                let end = get_u32(len, 0).and_then(|len| at.checked_add(len));
                let first = node.label.first().copied();
                let ascends = first > parent.last;
                parent.last = first;
                let literal = !node.label.iter().any(|byte| is_wildcard(*byte));
                (end.ok_or(damaged(at))?, parent.depth, ascends && literal)
            }
        };
        let depth = above.saturating_add(node.label.len());
        count = count.saturating_add(node.patterns.len() / ENTRY);
        let patterns = node.patterns().all(|(rest, target)| {
            let rest = pool_text(pool, rest);
            usize::from(target) < targets
                && rest.is_some_and(|rest| {
                    depth.saturating_add(rest.len()) <= MAX_PATTERN
                        && rest.first().is_none_or(|first| is_wildcard(*first))
                })
        });
        if !(good && patterns && depth <= MAX_PATTERN && count <= MAX_PATTERNS) {
            return Err(damaged(at));
        }
        inside.push(Open {
            end,
            depth,
            lengths: node.children,
            last: None,
        });
        at = node.first_child;
        // What has no further children ends here, and where it was said to.
        while let Some(open) = inside.last().filter(|open| open.lengths.is_empty()) {
            if open.end != at {
                return Err(damaged(at));
            }
            inside.pop();
        }
        if inside.is_empty() {
            return Ok(());
        }
    }
}

/// A pattern on its way into the table.
struct Pattern<'a> {
    literal: &'a [u8],
    /// Offset of the rest in the pool.
    rest: usize,
    target: u16,
}

/// The rests, each once.
#[derive(Default)]
struct Pool<'a> {
    bytes: Vec<u8>,
    offsets: BTreeMap<&'a [u8], usize>,
}

impl<'a> Pool<'a> {
    fn offset(&mut self, rest: &'a [u8]) -> usize {
        *self.offsets.entry(rest).or_insert_with(|| {
            let offset = self.bytes.len();
            put_u16(&mut self.bytes, rest.len());
            self.bytes.extend_from_slice(rest);
            offset
        })
    }
}

/// What is left to write.
enum Work<'a> {
    /// The node for patterns whose literals agree up to the end of its label, and
    /// all below it.
    Node {
        patterns: &'a [Pattern<'a>],
        /// Where the label begins and ends in each literal.
        label: (usize, usize),
        /// Where the length of its subtree goes; the root has none.
        length: Option<usize>,
    },
    /// The length of the subtree that began at `start`.
    Length { at: usize, start: usize },
}

/// Writes the trie. Not by recursion: literals may be long and of many pieces.
fn write_nodes(out: &mut Vec<u8>, patterns: &[Pattern<'_>]) {
    let mut work = Vec::from([Work::Node {
        patterns,
        label: (0, 0),
        length: None,
    }]);
    while let Some(next) = work.pop() {
        match next {
            Work::Length { at, start } => {
                let mut len = Vec::new();
                put_u32(&mut len, out.len() - start);
                if let Some(slot) = out.get_mut(at..at + CHILD) {
                    slot.copy_from_slice(&len);
                }
            }
            Work::Node {
                patterns,
                label,
                length,
            } => {
                work.extend(length.map(|at| Work::Length {
                    at,
                    start: out.len(),
                }));
                write_node(out, patterns, label, &mut work);
            }
        }
    }
}

/// Writes a node without its children, which are left to do.
fn write_node<'a>(
    out: &mut Vec<u8>,
    patterns: &'a [Pattern<'a>],
    (start, depth): (usize, usize),
    work: &mut Vec<Work<'a>>,
) {
    let label = patterns.first().and_then(|p| p.literal.get(start..depth));
    let label = label.unwrap_or_default();
    put_u16(out, label.len());
    out.extend_from_slice(label);
    let here = patterns.partition_point(|pattern| pattern.literal.len() <= depth);
    let (here, below) = patterns.split_at(here);
    put_u16(out, here.len());
    for pattern in here {
        put_u32(out, pattern.rest);
        out.extend_from_slice(&pattern.target.to_le_bytes());
    }
    let byte = |pattern: &Pattern<'_>| pattern.literal.get(depth).copied();
    let children: Vec<&[Pattern<'_>]> = below.chunk_by(|a, b| byte(a) == byte(b)).collect();
    put_u16(out, children.len());
    let lengths = out.len();
    out.resize(lengths + CHILD * children.len(), 0);
    for (number, child) in children.into_iter().enumerate().rev() {
        work.push(Work::Node {
            patterns: child,
            label: (depth, depth + common(child, depth)),
            length: Some(lengths + CHILD * number),
        });
    }
}

/// How many bytes after the first `depth` all literals agree in: sorted, what
/// the first and the last agree in, all do.
fn common(patterns: &[Pattern<'_>], depth: usize) -> usize {
    let Some((first, last)) = patterns.first().zip(patterns.last()) else {
        return 0;
    };
    let pairs = first.literal.iter().zip(last.literal);
    pairs.skip(depth).take_while(|(a, b)| a == b).count()
}

/// Counts here are at most [`MAX_PATTERNS`], lengths at most [`MAX_PATTERN`].
fn put_u16(out: &mut Vec<u8>, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    out.extend_from_slice(&value.to_le_bytes());
}

/// All patterns together take less than 512 MiB.
fn put_u32(out: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).unwrap_or(u32::MAX);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests;
