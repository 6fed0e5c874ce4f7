//! Arithmetic modulo an odd number, in Montgomery form.
//!
//! RSA's numbers have up to 64 limbs and are on the heap; those of the curves
//! have 4 and 6, in arrays, and their multiplication, where nearly all of the
//! time goes, is unrolled. Limbs are little-endian, of 64 bits; numbers are
//! always less than the modulus. Running time depends on the values: whoever
//! verifies a signature knows nothing that is secret.

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::mem::swap;

/// The limbs of a number. All numbers of one [`Modulus`] have as many.
pub(crate) trait Limbs: Clone + AsRef<[u64]> + AsMut<[u64]> {
    /// Zero, with as many limbs as `self`.
    fn zero(&self) -> Self {
        let mut zero = self.clone();
        zero.as_mut().fill(0);
        zero
    }

    /// Whether multiplication can work with R - n.
    fn takes(complement: &Self) -> bool;

    /// `a`·`b`/R modulo n.
    fn multiply(modulus: &Modulus<Self>, a: &Self, b: &Self) -> Self;
}

/// Any number of limbs.
impl Limbs for Vec<u64> {
    fn takes(_: &Self) -> bool {
        true
    }

    #[inline]
    fn multiply(modulus: &Modulus<Self>, a: &Self, b: &Self) -> Self {
        let n = &modulus.n[..];
        let mut out = modulus.n.zero();
        let mut top = 0;
        for &digit in b {
            // One pass adds a·digit and the multiple of n that makes the lowest
            // limb zero, and moves the sum down by that limb.
            let (low, mut by_a) = multiply_add(out[0], a[0], digit, 0);
            let multiple = low.wrapping_mul(modulus.n0);
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
        modulus.reduce(out, top != 0)
    }
}

/// Repeats a block for each of up to six limbs, the limb's number being a
/// constant, so that neither loops nor checks of bounds are left.
macro_rules! for_limbs {
    ($i:ident, $body:block) => {
        for_limbs!($i, $body, 0 1 2 3 4 5)
    };
    ($i:ident, $body:block, $($limb:literal)*) => {
        $({
            let $i: usize = $limb;
            if $i < N $body
        })*
    };
}

/// How many limbs R - n may have where n has `limbs`: both the prime and the
/// order of P-384 are so near R that half of the reduction falls away.
const fn complement_limbs(limbs: usize) -> usize {
    if limbs == 6 { 3 } else { limbs }
}

/// At most six limbs, column by column (the "finely integrated product scanning"
/// of Koç, Acar and Kaliski, Analyzing and Comparing Montgomery Multiplication
/// Algorithms, 1996), with a signed reduction: (a·b - m·n)/R, which is above -n
/// and below n, where m < R is what makes R divide it. With n = R - c that is
/// (a·b + m·c)/R - m, of which the first term is less than n²/R + c and so than R.
impl<const N: usize> Limbs for [u64; N] {
    fn takes(complement: &Self) -> bool {
        is_zero(complement.get(complement_limbs(N)..).unwrap_or_default())
    }

    #[inline(always)]
    fn multiply(modulus: &Modulus<Self>, a: &Self, b: &Self) -> Self {
        const { assert!(N <= 6) };
        let c = &modulus.complement;
        let (mut m, mut negative) = ([0; N], [0; N]);
        let mut column = Column::default();
        for_limbs!(i, {
            for_limbs!(j, {
                if j <= i {
                    column.subtract(a[j], b[i - j]);
                }
                if j < i && i - j < complement_limbs(N) {
                    column.subtract(m[j], c[i - j]);
                }
            });
            // -1/n is 1/c, both modulo 2^64.
            m[i] = column.low.wrapping_mul(modulus.n0);
            column.subtract(m[i], c[0]);
            column.next();
        });
        for_limbs!(i, {
            for_limbs!(j, {
                if j > i {
                    column.subtract(a[j], b[N + i - j]);
                    if N + i - j < complement_limbs(N) {
                        column.subtract(m[j], c[N + i - j]);
                    }
                }
            });
            negative[i] = column.low;
            column.next();
        });
        let mut out = [0; N];
        sub_assign(&mut out, &negative);
        if sub_assign(&mut out, &m) {
            add_assign(&mut out, &modulus.n);
        }
        out
    }
}

/// The sum of a column of a long multiplication, with what came over from the
/// one below: 192 bits, two's complement.
///
/// It is the negative sum, because subtractions compile to less: of an addition,
/// the compiler puts the sum where the product was, and copies it from there.
#[derive(Default)]
struct Column {
    low: u64,
    middle: u64,
    high: u64,
}

impl Column {
    /// Takes `a`·`b` off.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    fn subtract(&mut self, a: u64, b: u64) {
        let sum = u128::from(self.middle) << 64 | u128::from(self.low);
        let (sum, borrow) = sum.overflowing_sub(u128::from(a) * u128::from(b));
        self.low = sum as u64;
        self.middle = (sum >> 64) as u64;
        self.high = self.high.wrapping_sub(u64::from(borrow));
    }

    /// Moves on to the next column.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        reason = "the sign is spread"
    )]
    fn next(&mut self) {
        self.low = self.middle;
        self.middle = self.high;
        self.high = (self.high as i64 >> 63) as u64;
    }
}

/// An odd modulus and what multiplication needs to know about it.
pub(crate) struct Modulus<L> {
    n: L,
    /// R - n.
    complement: L,
    /// -1/n modulo 2^64.
    n0: u64,
    /// R² modulo n, where R is 2^64 to the number of limbs.
    rr: L,
}

// The operations are calls, not inlined: a few per cent slower, 8 KB smaller.
impl<L: Limbs> Modulus<L> {
    /// `None` if `n` is even or 1, or has six limbs and is not near R (see
    /// [`complement_limbs`]).
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
        let mut complement = n.zero();
        sub_assign(complement.as_mut(), n.as_ref());
        if !L::takes(&complement) {
            return None;
        }
        let mut this = Self {
            rr: n.zero(),
            complement,
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
    #[inline(never)]
    pub(crate) fn add(&self, a: &L, b: &L) -> L {
        let mut sum = a.clone();
        let carry = add_assign(sum.as_mut(), b.as_ref());
        self.reduce(sum, carry)
    }

    /// `a` - `b`.
    #[inline(never)]
    pub(crate) fn sub(&self, a: &L, b: &L) -> L {
        let mut out = a.clone();
        if sub_assign(out.as_mut(), b.as_ref()) {
            add_assign(out.as_mut(), self.n.as_ref());
        }
        out
    }

    /// A number of less than twice the modulus, reduced; `carry` is its bit
    /// above the limbs.
    #[inline]
    pub(crate) fn reduce(&self, a: L, carry: bool) -> L {
        let mut less = a.clone();
        if sub_assign(less.as_mut(), self.n.as_ref()) && !carry {
            a
        } else {
            less
        }
    }

    /// `a`·`b`/R: the product where both are in Montgomery form.
    #[inline(never)]
    pub(crate) fn mul(&self, a: &L, b: &L) -> L {
        L::multiply(self, a, b)
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

impl<const N: usize> Modulus<[u64; N]> {
    /// 1/`a`, both as they are, not in Montgomery form. `None` where there is no
    /// such number, as for 0.
    ///
    /// The binary extended algorithm of Euclid (Hankerson, Menezes and Vanstone,
    /// Guide to Elliptic Curve Cryptography, 2.22): `x`·`a` is `u` and `y`·`a`
    /// is `v`, modulo n, all the time; `v` is odd. Each round takes a bit at
    /// least off `u` or `v`.
    pub(crate) fn inverse(&self, a: &[u64; N]) -> Option<[u64; N]> {
        let one = core::array::from_fn(|i| u64::from(i == 0));
        let (mut u, mut x) = (*a, one);
        let (mut v, mut y) = (self.n, [0; N]);
        while !is_zero(&u) {
            while u[0] % 2 == 0 {
                halve(&mut u, false);
                let carry = x[0] % 2 == 1 && add_assign(&mut x, &self.n);
                halve(&mut x, carry);
            }
            if compare(&u, &v) == Ordering::Less {
                swap(&mut u, &mut v);
                swap(&mut x, &mut y);
            }
            sub_assign(&mut u, &v);
            x = self.sub(&x, &y);
        }
        (v == one).then_some(y)
    }
}

/// Moves a number down by one bit; `carry` is the bit above the limbs.
#[inline]
fn halve(a: &mut [u64], carry: bool) {
    let mut above = u64::from(carry);
    for limb in a.iter_mut().rev() {
        let bit = *limb % 2;
        *limb = *limb >> 1 | above << 63;
        above = bit;
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
#[inline(never)]
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
