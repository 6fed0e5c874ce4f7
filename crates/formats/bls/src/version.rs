//! The order of versions (UAPI.10).

use core::cmp::Ordering;

/// Compares two versions: `122.1 < 123~rc1-1 < 123 < 123-a < 123-1 < 123^post1
/// < 123.1-1`. Versions that differ only in separators (such as `_` and `+`) or
/// leading zeroes are equal. Takes linear time.
#[must_use]
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip_others(a);
        b = skip_others(b);
        // A `~` is lower than anything, the end included; the others are lower
        // than anything but the end.
        if let Some(order) = mark(&mut a, &mut b, b'~') {
            return order;
        }
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        for byte in *b"-^." {
            if let Some(order) = mark(&mut a, &mut b, byte) {
                return order;
            }
        }
        let order = if starts_with_digit(a) || starts_with_digit(b) {
            let (a, b) = (
                take(&mut a, u8::is_ascii_digit),
                take(&mut b, u8::is_ascii_digit),
            );
            // The specification has a missing number count as 0; systemd and
            // systemd-boot, which make the order that people see, have any
            // number above none.
            b.is_empty().cmp(&a.is_empty()).then_with(|| {
                let (a, b) = (significant(a), significant(b));
                a.len().cmp(&b.len()).then_with(|| a.cmp(b))
            })
        } else {
            let letters = u8::is_ascii_alphabetic;
            take(&mut a, letters).cmp(take(&mut b, letters))
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Passes over what has no meaning in a version.
fn skip_others(text: &[u8]) -> &[u8] {
    let others = text
        .iter()
        .take_while(|byte| !byte.is_ascii_alphanumeric() && !b"-.~^".contains(byte))
        .count();
    text.get(others..).unwrap_or(&[])
}

/// The text that has `mark` in front is the lower; if both have, it is taken
/// off.
fn mark(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Option<Ordering> {
    let after_a = a.strip_prefix(&[mark]);
    let after_b = b.strip_prefix(&[mark]);
    match (after_a, after_b) {
        (Some(after_a), Some(after_b)) => {
            (*a, *b) = (after_a, after_b);
            None
        }
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (None, None) => None,
    }
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

fn take<'a>(text: &mut &'a [u8], is: impl Fn(&u8) -> bool) -> &'a [u8] {
    let len = text.iter().take_while(|byte| is(byte)).count();
    let (taken, rest) = text.split_at(len);
    *text = rest;
    taken
}

fn significant(digits: &[u8]) -> &[u8] {
    let zeroes = digits.iter().take_while(|&&byte| byte == b'0').count();
    digits.get(zeroes..).unwrap_or(&[])
}
