//! Reading DER element by element, with offsets in the whole document.

use der::asn1::{ObjectIdentifier, UintRef};
use der::{Decode, DecodeValue, FixedTag, Header, Reader, SliceReader, Tag, TagNumber};

use crate::error::{Refusal, malformed};

/// A part of a document that is read from front to back.
#[derive(Clone)]
pub(crate) struct Input<'a> {
    reader: SliceReader<'a>,
    bytes: &'a [u8],
    /// Where `bytes` begins in the document.
    base: usize,
}

/// One element: its tag, its bytes with and without the header.
#[derive(Clone, Copy)]
pub(crate) struct Element<'a> {
    tag: Tag,
    /// Header and content.
    pub(crate) whole: &'a [u8],
    /// The content.
    pub(crate) content: &'a [u8],
    /// Where the content begins in the document.
    base: usize,
}

impl<'a> Input<'a> {
    /// A document from its start.
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Result<Self, Refusal> {
        Self::at(bytes, 0, what)
    }

    fn at(bytes: &'a [u8], base: usize, what: &'static str) -> Result<Self, Refusal> {
        let reader = SliceReader::new(bytes).map_err(|_| malformed(what, base))?;
        Ok(Self {
            reader,
            bytes,
            base,
        })
    }

    /// Where the next element begins in the document.
    fn offset(&self) -> usize {
        let consumed = self.bytes.len() - self.rest();
        self.base.saturating_add(consumed)
    }

    /// How many bytes are left.
    fn rest(&self) -> usize {
        usize::try_from(self.reader.remaining_len()).unwrap_or(0)
    }

    /// Whether all has been read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest() == 0
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self, what: &'static str) -> Result<Element<'a>, Refusal> {
        let offset = self.offset();
        self.element().ok_or_else(|| malformed(what, offset))
    }

    fn element(&mut self) -> Option<Element<'a>> {
        let start = self.bytes.len() - self.rest();
        let header = Header::decode(&mut self.reader).ok()?;
        let content = self.bytes.len() - self.rest();
        let value = self.reader.read_slice(header.length()).ok()?;
        Some(Element {
            tag: header.tag(),
            whole: self.bytes.get(start..content.checked_add(value.len())?)?,
            content: value,
            base: self.base.checked_add(content)?,
        })
    }

    /// The next element, which has that tag.
    pub(crate) fn expect(&mut self, tag: Tag, what: &'static str) -> Result<Element<'a>, Refusal> {
        let offset = self.offset();
        match self.element() {
            Some(element) if element.tag == tag => Ok(element),
            _ => Err(malformed(what, offset)),
        }
    }

    /// The next element if it has that tag.
    pub(crate) fn optional(&mut self, tag: Tag) -> Option<Element<'a>> {
        let mut ahead = self.clone();
        let element = ahead.element().filter(|element| element.tag == tag)?;
        *self = ahead;
        Some(element)
    }

    /// What is in the next element, a SEQUENCE.
    pub(crate) fn sequence(&mut self, what: &'static str) -> Result<Self, Refusal> {
        self.expect(Tag::Sequence, what)?.open(what)
    }

    /// What is in the next element, a SET.
    pub(crate) fn set(&mut self, what: &'static str) -> Result<Self, Refusal> {
        self.expect(Tag::Set, what)?.open(what)
    }

    /// The next element as a value that the `der` crate decodes.
    fn value<T: DecodeValue<'a> + FixedTag + 'a>(
        &mut self,
        what: &'static str,
    ) -> Result<T, Refusal> {
        let offset = self.offset();
        T::decode(&mut self.reader).map_err(|_| malformed(what, offset))
    }

    /// An OBJECT IDENTIFIER.
    pub(crate) fn oid(&mut self, what: &'static str) -> Result<ObjectIdentifier, Refusal> {
        self.value(what)
    }

    /// An INTEGER that is not negative: big-endian, without leading zeros.
    pub(crate) fn unsigned(&mut self, what: &'static str) -> Result<&'a [u8], Refusal> {
        Ok(self.value::<UintRef<'a>>(what)?.as_bytes())
    }

    /// A BIT STRING of whole bytes.
    pub(crate) fn bits(&mut self, what: &'static str) -> Result<Element<'a>, Refusal> {
        let offset = self.offset();
        let mut element = self.expect(Tag::BitString, what)?;
        match element.content.split_first() {
            Some((0, bytes)) => {
                element.content = bytes;
                element.base = element.base.saturating_add(1);
                Ok(element)
            }
            _ => Err(malformed(what, offset)),
        }
    }

    /// An AlgorithmIdentifier: the algorithm, and its parameters unless they
    /// are absent or NULL.
    pub(crate) fn algorithm(
        &mut self,
        what: &'static str,
    ) -> Result<(ObjectIdentifier, Option<Element<'a>>), Refusal> {
        let mut sequence = self.sequence(what)?;
        let oid = sequence.oid(what)?;
        let parameters = match sequence.optional(Tag::Null) {
            Some(null) if null.content.is_empty() => None,
            Some(null) => return Err(null.malformed(what)),
            None if sequence.is_empty() => None,
            None => Some(sequence.any(what)?),
        };
        sequence.end(what)?;
        Ok((oid, parameters))
    }

    /// Nothing may be left.
    pub(crate) fn end(&self, what: &'static str) -> Result<(), Refusal> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(malformed(what, self.offset()))
        }
    }
}

impl<'a> Element<'a> {
    /// Reads what is inside.
    pub(crate) fn open(self, what: &'static str) -> Result<Input<'a>, Refusal> {
        Input::at(self.content, self.base, what)
    }

    /// The error that this element's content is not as it should be.
    pub(crate) fn malformed(self, what: &'static str) -> Refusal {
        malformed(what, self.base)
    }

    /// Whether it has that tag.
    pub(crate) fn is(self, tag: Tag) -> bool {
        self.tag == tag
    }
}

/// The tag `[number]`; `constructed` unless what is in it is a primitive with
/// an implicit tag.
pub(crate) const fn context(number: u32, constructed: bool) -> Tag {
    Tag::ContextSpecific {
        constructed,
        number: TagNumber(number),
    }
}
