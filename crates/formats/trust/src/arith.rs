//! Arithmetic modulo an odd number, in Montgomery form.
//!
//! One implementation serves RSA (up to 64 limbs, on the heap) and the fields
//! of both curves (4 and 6 limbs, arrays whose loops the compiler unrolls).
//! Numbers are little-endian limbs of 64 bits, always less than the modulus.
//! Running time depends on the values: whoever verifies a signature knows
//! nothing that is secret.

use core::cmp::Ordering;

/// The limbs of a number. All numbers of one [`Modulus`] have as many.
pub(crate) trait Limbs: Clone + AsRef<[u64]> + AsMut<[u64]> {
    /// Zero, with as many limbs as `self`.
    fn zero(&self) -> Self {
        let mut zero = self.clone();
        zero.as_mut().fill(0);
        zero
    }
}

impl<T: Clone + AsRef<[u64]> + AsMut<[u64]>> Limbs for T {}

/// An odd modulus and what multiplication needs to know about it.
pub(crate) struct Modulus<L> {
    n: L,
    /// -1/n modulo 2^64.
    n0: u64,
    /// R² modulo n, where R is 2^64 to the number of limbs.
    rr: L,
}

impl<L: Limbs> Modulus<L> {
    /// `None` if `n` is even or 1.
    pub(crate) fn new(n: L) -> Option<Self> {
        let low = *n.as_ref().first()?;
        let bits = bit_len(n.as_ref());
        if low % 2 == 0 || bits < 2 {
            return None;
        }
        // Newton's iteration doubles the valid bits, of which an odd number has
        // three as its own inverse: 3, 6, 12, 24, 48, 96.
        let mut inverse = low;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(low.wrapping_mul(inverse)));
        }
        let mut this = Self {
            rr: n.zero(),
            n0: inverse.wrapping_neg(),
            n,
        };
        // R·2^limbs by doubling, from the greatest power of two below n.
        let limbs = this.n.as_ref().len();
        let mut power = this.n.zero();
        if let Some(limb) = power.as_mut().get_mut((bits - 1) / 64) {
            *limb = 1 << ((bits - 1) % 64);
        }
        for _ in bits - 1..limbs * 64 + limbs {
            power = this.add(&power, &power);
        }
        // Each Montgomery square doubles the exponent beside R: six of them
        // make 2^limbs into 2^(64·limbs), which is R.
        for _ in 0..6 {
            power = this.mul(&power, &power);
        }
        this.rr = power;
        Some(this)
    }

    /// Whether `a` is less than the modulus.
    pub(crate) fn holds(&self, a: &L) -> bool {
        compare(a.as_ref(), self.n.as_ref()) == Ordering::Less
    }

    /// `a` in Montgomery form.
    pub(crate) fn enter(&self, a: &L) -> L {
        self.mul(a, &self.rr)
    }

    /// What is `a` in Montgomery form.
    pub(crate) fn leave(&self, a: &L) -> L {
        let mut one = self.n.zero();
        if let Some(limb) = one.as_mut().first_mut() {
            *limb = 1;
        }
        self.mul(a, &one)
    }

    /// `a` + `b`.
    #[inline]
    pub(crate) fn add(&self, a: &L, b: &L) -> L {
        let mut out = a.clone();
        let carry = add_assign(out.as_mut(), b.as_ref());
        self.reduce(&mut out, carry);
        out
    }

    /// `a` - `b`.
    #[inline]
    pub(crate) fn sub(&self, a: &L, b: &L) -> L {
        let mut out = a.clone();
        if sub_assign(out.as_mut(), b.as_ref()) {
            add_assign(out.as_mut(), self.n.as_ref());
        }
        out
    }

    /// Subtracts the modulus from a number of less than twice as much.
    #[inline]
    pub(crate) fn reduce(&self, a: &mut L, carry: bool) {
        if carry || !self.holds(a) {
            sub_assign(a.as_mut(), self.n.as_ref());
        }
    }

    /// `a`·`b`/R: the product where both are in Montgomery form.
    #[inline]
    pub(crate) fn mul(&self, a: &L, b: &L) -> L {
        let mut product = self.n.zero();
        let n = self.n.as_ref();
        let (out, a, b) = (product.as_mut(), a.as_ref(), b.as_ref());
        let mut top = 0;
        for &digit in b {
            // One pass adds a·digit and the multiple of n that makes the lowest
            // limb zero, and moves the sum down by that limb.
            let (low, mut by_a) = multiply_add(out[0], a[0], digit, 0);
            let multiple = low.wrapping_mul(self.n0);
            let (_, mut by_n) = multiply_add(low, multiple, n[0], 0);
            for i in 1..n.len() {
                let (sum, carry) = multiply_add(out[i], a[i], digit, by_a);
                by_a = carry;
                (out[i - 1], by_n) = multiply_add(sum, multiple, n[i], by_n);
            }
            let (sum, first) = by_a.overflowing_add(by_n);
            let (sum, second) = sum.overflowing_add(top);
            out[n.len() - 1] = sum;
            top = u64::from(first) + u64::from(second);
        }
        self.reduce(&mut product, top != 0);
        product
    }

    /// `a` (in Montgomery form) to the power of `exponent`, which is not 0.
    pub(crate) fn pow(&self, a: &L, exponent: &[u64]) -> L {
        let mut power = a.clone();
        for bit in (0..bit_len(exponent).saturating_sub(1)).rev() {
            power = self.mul(&power, &power);
            if is_set(exponent, bit) {
                power = self.mul(&power, a);
            }
        }
        power
    }
}

/// `acc` + `a`·`b` + `carry`: low and high limb. It cannot overflow.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn multiply_add(acc: u64, a: u64, b: u64, carry: u64) -> (u64, u64) {
    let sum = u128::from(acc) + u128::from(a) * u128::from(b) + u128::from(carry);
    (sum as u64, (sum >> 64) as u64)
}

/// Adds `b` to `a`, both of as many limbs; whether there is a carry.
#[inline]
pub(crate) fn add_assign(a: &mut [u64], b: &[u64]) -> bool {
    let mut carry = false;
    for (a, b) in a.iter_mut().zip(b) {
        let (sum, first) = a.overflowing_add(*b);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        *a = sum;
        carry = first | second;
    }
    carry
}

/// Subtracts `b` from `a`, both of as many limbs; whether there is a borrow.
#[inline]
pub(crate) fn sub_assign(a: &mut [u64], b: &[u64]) -> bool {
    let mut borrow = false;
    for (a, b) in a.iter_mut().zip(b) {
        let (difference, first) = a.overflowing_sub(*b);
        let (difference, second) = difference.overflowing_sub(u64::from(borrow));
        *a = difference;
        borrow = first | second;
    }
    borrow
}

/// Orders two numbers of as many limbs.
#[inline]
fn compare(a: &[u64], b: &[u64]) -> Ordering {
    a.iter().rev().cmp(b.iter().rev())
}

/// Whether the number is 0.
#[inline]
pub(crate) fn is_zero(a: &[u64]) -> bool {
    a.iter().all(|&limb| limb == 0)
}

/// How many bits the number has without leading zeros.
pub(crate) fn bit_len(a: &[u64]) -> usize {
    for (i, limb) in a.iter().enumerate().rev() {
        if *limb != 0 {
            return (i + 1) * 64 - limb.leading_zeros() as usize;
        }
    }
    0
}

/// Whether that bit is 1.
pub(crate) fn is_set(a: &[u64], bit: usize) -> bool {
    a.get(bit / 64)
        .is_some_and(|limb| limb >> (bit % 64) & 1 == 1)
}

/// Reads a big-endian number into `limbs`; `None` if it is too long.
pub(crate) fn read_be<L: Limbs>(bytes: &[u8], mut limbs: L) -> Option<L> {
    limbs.as_mut().fill(0);
    for (i, chunk) in bytes.rchunks(8).enumerate() {
        let limb = chunk
            .iter()
            .fold(0, |limb: u64, &byte| limb << 8 | u64::from(byte));
        match limbs.as_mut().get_mut(i) {
            Some(place) => *place = limb,
            None if limb == 0 => {}
            None => return None,
        }
    }
    Some(limbs)
}
