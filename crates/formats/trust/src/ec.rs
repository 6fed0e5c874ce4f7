//! ECDSA verification on the curves P-256 and P-384 (FIPS 186-5 and SP 800-186).
//!
//! Points are in Jacobian coordinates: (X, Y, Z) is the affine point (X/Z²,
//! Y/Z³), Z = 0 the point at infinity, so that no step needs a division. u1·G +
//! u2·Q is worked out in one pass over the bits of both scalars, each in its
//! non-adjacent form of width 5, with tables of affine points.

use crate::arith::{Modulus, add_assign, bit_len, is_set, is_zero, read_be};

/// A curve y² = x³ - 3x + b, with numbers of `N` limbs.
pub(crate) struct Curve<const N: usize> {
    /// The prime of the field.
    p: [u64; N],
    /// The order of the base point, a prime of as many bits as `p`.
    n: [u64; N],
    b: [u64; N],
    /// The base point, affine.
    g: ([u64; N], [u64; N]),
}

/// NIST P-256, secp256r1, prime256v1.
pub(crate) const P256: Curve<4> = Curve {
    p: [
        0xffff_ffff_ffff_ffff,
        0x0000_0000_ffff_ffff,
        0x0000_0000_0000_0000,
        0xffff_ffff_0000_0001,
    ],
    n: [
        0xf3b9_cac2_fc63_2551,
        0xbce6_faad_a717_9e84,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_0000_0000,
    ],
    b: [
        0x3bce_3c3e_27d2_604b,
        0x651d_06b0_cc53_b0f6,
        0xb3eb_bd55_7698_86bc,
        0x5ac6_35d8_aa3a_93e7,
    ],
    g: (
        [
            0xf4a1_3945_d898_c296,
            0x7703_7d81_2deb_33a0,
            0xf8bc_e6e5_63a4_40f2,
            0x6b17_d1f2_e12c_4247,
        ],
        [
            0xcbb6_4068_37bf_51f5,
            0x2bce_3357_6b31_5ece,
            0x8ee7_eb4a_7c0f_9e16,
            0x4fe3_42e2_fe1a_7f9b,
        ],
    ),
};

/// NIST P-384, secp384r1.
pub(crate) const P384: Curve<6> = Curve {
    p: [
        0x0000_0000_ffff_ffff,
        0xffff_ffff_0000_0000,
        0xffff_ffff_ffff_fffe,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_ffff_ffff,
    ],
    n: [
        0xecec_196a_ccc5_2973,
        0x581a_0db2_48b0_a77a,
        0xc763_4d81_f437_2ddf,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_ffff_ffff,
        0xffff_ffff_ffff_ffff,
    ],
    b: [
        0x2a85_c8ed_d3ec_2aef,
        0xc656_398d_8a2e_d19d,
        0x0314_088f_5013_875a,
        0x181d_9c6e_fe81_4112,
        0x988e_056b_e3f8_2d19,
        0xb331_2fa7_e23e_e7e4,
    ],
    g: (
        [
            0x3a54_5e38_7276_0ab7,
            0x5502_f25d_bf55_296c,
            0x59f7_41e0_8254_2a38,
            0x6e1d_3b62_8ba7_9b98,
            0x8eb1_c71e_f320_ad74,
            0xaa87_ca22_be8b_0537,
        ],
        [
            0x7a43_1d7c_90ea_0e5f,
            0x0a60_b1ce_1d7e_819d,
            0xe9da_3113_b5f0_b8c0,
            0xf8f4_1dbd_289a_147c,
            0x5d9e_98bf_9292_dc29,
            0x3617_de4a_9626_2c6f,
        ],
    ),
};

/// A point that is not the one at infinity: affine coordinates, in Montgomery
/// form.
#[derive(Clone, Copy)]
struct Affine<const N: usize> {
    x: [u64; N],
    y: [u64; N],
}

/// A point in Jacobian coordinates, each in Montgomery form.
#[derive(Clone, Copy)]
struct Point<const N: usize> {
    x: [u64; N],
    y: [u64; N],
    z: [u64; N],
}

impl<const N: usize> Point<N> {
    const INFINITY: Self = Self {
        x: [0; N],
        y: [0; N],
        z: [0; N],
    };

    /// A point of which `one` is Z, in Montgomery form.
    fn from_affine(point: &Affine<N>, one: [u64; N]) -> Self {
        Self {
            x: point.x,
            y: point.y,
            z: one,
        }
    }
}

/// The odd multiples 1, 3, … 15 of a point.
const TABLE: usize = 8;

/// More digits than a scalar of 384 bits has.
const DIGITS: usize = 392;

impl<const N: usize> Curve<N> {
    /// Whether `point` (uncompressed, SEC 1: 4, x, y) is a point of the curve.
    pub(crate) fn holds(&self, point: &[u8]) -> bool {
        Modulus::new(self.p).is_some_and(|field| self.point(&field, point).is_some())
    }

    /// Whether (`r`, `s`), big-endian, is a signature over a message with that
    /// digest by the private key that belongs to `point`.
    pub(crate) fn verify(&self, point: &[u8], digest: &[u8], r: &[u8], s: &[u8]) -> bool {
        self.check(point, digest, r, s).is_some()
    }

    /// `None` where the signature is wrong.
    fn check(&self, point: &[u8], digest: &[u8], r: &[u8], s: &[u8]) -> Option<()> {
        let field = Modulus::new(self.p)?;
        let scalars = Modulus::new(self.n)?;
        let q = self.point(&field, point)?;
        let [r, s] = [r, s].map(|bytes| {
            read_be(bytes, [0; N]).filter(|value| !is_zero(value) && scalars.holds(value))
        });
        let (r, s) = (r?, s?);

        // n has as many bits as the limbs, so that the leftmost bits of the
        // digest are its first bytes and less than 2n.
        let e = read_be(digest.get(..N * 8).unwrap_or(digest), [0; N])?;
        let e = scalars.reduce(e, false);
        let inverse = scalars.enter(&scalars.inverse(&s)?);
        // A product with one factor in Montgomery form has left it.
        let u1 = scalars.mul(&e, &inverse);
        let u2 = scalars.mul(&r, &inverse);

        let g = Affine {
            x: field.enter(&self.g.0),
            y: field.enter(&self.g.1),
        };
        let sum = multiply_both(&field, [&g, &q], [&u1, &u2])?;
        if is_zero(&sum.z) {
            return None;
        }
        // x modulo n is r if x is r or r + n; x is X/Z², compared without
        // dividing.
        let zz = field.mul(&sum.z, &sum.z);
        let fits = |candidate: &[u64; N]| field.mul(&field.enter(candidate), &zz) == sum.x;
        let mut wrapped = r;
        let beyond = add_assign(&mut wrapped, &self.n) || !field.holds(&wrapped);
        (fits(&r) || (!beyond && fits(&wrapped))).then_some(())
    }

    /// Reads a point and checks that it is on the curve.
    fn point(&self, field: &Modulus<[u64; N]>, bytes: &[u8]) -> Option<Affine<N>> {
        let (x, y) = bytes.strip_prefix(&[4])?.split_at_checked(N * 8)?;
        if y.len() != N * 8 {
            return None;
        }
        let [x, y] = [x, y].map(|bytes| read_be(bytes, [0; N]).filter(|value| field.holds(value)));
        let (x, y) = (field.enter(&x?), field.enter(&y?));
        let one = one(field);
        let three = field.add(&field.add(&one, &one), &one);
        // x³ - 3x + b is (x² - 3)·x + b.
        let slope = field.sub(&field.mul(&x, &x), &three);
        let right = field.add(&field.mul(&slope, &x), &field.enter(&self.b));
        (field.mul(&y, &y) == right).then_some(Affine { x, y })
    }
}

/// 1 in Montgomery form.
fn one<const N: usize>(field: &Modulus<[u64; N]>) -> [u64; N] {
    let mut one = [0; N];
    one[0] = 1;
    field.enter(&one)
}

/// The sum of two points (of the curve's order), each times its scalar.
fn multiply_both<const N: usize>(
    field: &Modulus<[u64; N]>,
    points: [&Affine<N>; 2],
    scalars: [&[u64; N]; 2],
) -> Option<Point<N>> {
    let tables = odd_multiples(field, points)?;
    let digits = scalars.map(digits);
    let mut sum = Point::INFINITY;
    for i in (0..N * 64 + 1).rev() {
        if !is_zero(&sum.z) {
            sum = double(field, &sum);
        }
        for (table, digits) in tables.iter().zip(&digits) {
            let digit = digits.get(i).copied().unwrap_or(0);
            if let Some(multiple) = table.get(usize::from(digit.unsigned_abs() / 2)) {
                if digit > 0 {
                    sum = add(field, &sum, multiple);
                } else if digit < 0 {
                    let y = field.sub(&[0; N], &multiple.y);
                    sum = add(field, &sum, &Affine { y, ..*multiple });
                }
            }
        }
    }
    Some(sum)
}

/// 1, 3, … 15 times each point, which has a greater order than that.
///
/// All are made affine by one inverse (Montgomery's trick, algorithm 2.26 of the
/// Guide to Elliptic Curve Cryptography): additions are cheaper for it.
fn odd_multiples<const N: usize>(
    field: &Modulus<[u64; N]>,
    points: [&Affine<N>; 2],
) -> Option<[[Affine<N>; TABLE]; 2]> {
    let one = one(field);
    let multiples = points.map(|point| {
        let mut multiples = [Point::from_affine(point, one); 2 * TABLE];
        for i in 1..TABLE {
            multiples[2 * i] = double(field, &multiples[i]);
            multiples[2 * i + 1] = add(field, &multiples[2 * i], point);
        }
        multiples
    });
    let odd: [&Point<N>; 2 * TABLE] =
        core::array::from_fn(|i| &multiples[i / TABLE][i % TABLE * 2 + 1]);

    // The product of all Z that come before each.
    let mut product = one;
    let mut before = [one; 2 * TABLE];
    for (before, point) in before.iter_mut().zip(odd) {
        *before = product;
        product = field.mul(&product, &point.z);
    }
    // The inverse of z·R is to be R/z, not 1/(z·R).
    let mut inverse = field.enter(&field.enter(&field.inverse(&product)?));
    let mut tables = [[Affine { x: one, y: one }; TABLE]; 2];
    let places = tables.as_flattened_mut().iter_mut();
    for ((place, before), point) in places.zip(&before).zip(odd).rev() {
        let z = field.mul(&inverse, before);
        inverse = field.mul(&inverse, &point.z);
        let zz = field.mul(&z, &z);
        place.x = field.mul(&point.x, &zz);
        place.y = field.mul(&point.y, &field.mul(&zz, &z));
    }
    Some(tables)
}

/// The non-adjacent form of width 5: digits that are 0 or odd, from -15 to 15,
/// lowest first, with at least four zeros after each that is not 0.
fn digits<const N: usize>(scalar: &[u64; N]) -> [i8; DIGITS] {
    let mut digits = [0; DIGITS];
    let mut carry = false;
    let mut at = 0;
    while at < bit_len(scalar) || carry {
        if is_set(scalar, at) == carry {
            at += 1;
            continue;
        }
        let mut digit = i8::from(carry);
        for bit in 0..5 {
            digit += i8::from(is_set(scalar, at + bit)) << bit;
        }
        carry = digit > 16;
        if carry {
            digit -= 32;
        }
        if let Some(place) = digits.get_mut(at) {
            *place = digit;
        }
        at += 5;
    }
    digits
}

/// Twice a point (formulas "dbl-2001-b" of the Explicit-Formulas Database, for
/// a = -3).
fn double<const N: usize>(field: &Modulus<[u64; N]>, p: &Point<N>) -> Point<N> {
    let twice = |a: &[u64; N]| field.add(a, a);
    let delta = field.mul(&p.z, &p.z);
    let gamma = field.mul(&p.y, &p.y);
    let gamma2 = twice(&gamma);
    let beta4 = field.mul(&p.x, &twice(&gamma2));
    let alpha = field.mul(&field.sub(&p.x, &delta), &field.add(&p.x, &delta));
    let alpha = field.add(&twice(&alpha), &alpha);
    let x = field.sub(&field.mul(&alpha, &alpha), &twice(&beta4));
    let z = twice(&field.mul(&p.y, &p.z));
    let square8 = twice(&field.mul(&gamma2, &gamma2));
    let y = field.sub(&field.mul(&alpha, &field.sub(&beta4, &x)), &square8);
    Point { x, y, z }
}

/// The sum of any two points (formulas "madd-2004-hmv" of the same database).
fn add<const N: usize>(field: &Modulus<[u64; N]>, p: &Point<N>, q: &Affine<N>) -> Point<N> {
    if is_zero(&p.z) {
        return Point::from_affine(q, one(field));
    }
    let zz = field.mul(&p.z, &p.z);
    let h = field.sub(&field.mul(&q.x, &zz), &p.x);
    let r = field.sub(&field.mul(&q.y, &field.mul(&zz, &p.z)), &p.y);
    if is_zero(&h) {
        return if is_zero(&r) {
            double(field, p)
        } else {
            Point::INFINITY
        };
    }
    let hh = field.mul(&h, &h);
    let hhh = field.mul(&h, &hh);
    let v = field.mul(&p.x, &hh);
    let x = field.sub(&field.mul(&r, &r), &hhh);
    let x = field.sub(&x, &field.add(&v, &v));
    let y = field.sub(&field.mul(&r, &field.sub(&v, &x)), &field.mul(&p.y, &hhh));
    let z = field.mul(&p.z, &h);
    Point { x, y, z }
}

/// What the unit tests ask of the curves, from inside.
#[cfg(test)]
pub(crate) mod laws {
    use super::*;
    use crate::arith::sub_assign;

    /// `digits` must describe `scalar`.
    pub(crate) fn digits<const N: usize>(scalar: &[u64; N]) {
        let digits = super::digits(scalar);
        let mut sum = [0; N];
        let mut last = None;
        for (at, &digit) in digits.iter().enumerate().rev() {
            let copy = sum;
            add_assign(&mut sum, &copy);
            let mut limb = [0; N];
            limb[0] = u64::from(digit.unsigned_abs());
            if digit < 0 {
                sub_assign(&mut sum, &limb);
            } else {
                add_assign(&mut sum, &limb);
            }
            if digit != 0 {
                assert!(digit % 2 != 0 && digit.abs() < 16);
                assert!(last.is_none_or(|last| last - at >= 5));
                last = Some(at);
            }
        }
        assert_eq!(&sum, scalar);
    }

    /// Sums of multiples of the base point are what they should be, through
    /// every special case of an addition.
    pub(crate) fn check<const N: usize>(curve: &Curve<N>) {
        let field = Modulus::new(curve.p).unwrap();
        let g = Affine {
            x: field.enter(&curve.g.0),
            y: field.enter(&curve.g.1),
        };
        let start = Point::from_affine(&g, one(&field));
        let affine = |point: &Point<N>| {
            let mut exponent = curve.p;
            exponent[0] -= 2;
            let inverse = field.pow(&point.z, &exponent);
            let square = field.mul(&inverse, &inverse);
            let cube = field.mul(&square, &inverse);
            (field.mul(&point.x, &square), field.mul(&point.y, &cube))
        };
        let small = |value: u64| {
            let mut scalar = [0; N];
            scalar[0] = value;
            scalar
        };
        let times = |a: &[u64; N], b: &[u64; N]| multiply_both(&field, [&g, &g], [a, b]).unwrap();
        let minus = |value: u64| {
            let mut scalar = curve.n;
            sub_assign(&mut scalar, &small(value));
            scalar
        };
        assert!(is_zero(&times(&small(0), &small(0)).z));
        // n·G is the point at infinity, also as a sum of opposites.
        for value in [1, 2, 15, 16, 17, 1 << 40] {
            assert!(is_zero(&times(&small(value), &minus(value)).z), "{value}");
            assert!(is_zero(&times(&minus(value), &small(value)).z), "{value}");
        }
        // Repeated additions agree with multiples.
        let mut sum = start;
        for value in 2..200 {
            sum = add(&field, &sum, &g);
            assert_eq!(affine(&sum), affine(&times(&small(value), &small(0))));
            assert_eq!(affine(&sum), affine(&times(&small(1), &small(value - 1))));
        }
        // The opposite has the same x.
        let (x, y) = affine(&times(&minus(3), &small(2)));
        assert_eq!(x, g.x);
        assert_eq!(field.add(&y, &g.y), [0; N]);
        let infinity = times(&small(0), &small(0));
        assert_eq!(affine(&add(&field, &infinity, &g)), (g.x, g.y));
        assert!(is_zero(&double(&field, &infinity).z));
        // The tables hold what repeated additions give, of both points.
        let twice = affine(&double(&field, &start));
        let twice = Affine {
            x: twice.0,
            y: twice.1,
        };
        let [ones, twos] = odd_multiples(&field, [&g, &twice]).unwrap();
        for (table, step) in [(ones, g), (twos, twice)] {
            let mut sum = Point::INFINITY;
            for multiple in table {
                sum = add(&field, &sum, &step);
                assert_eq!((multiple.x, multiple.y), affine(&sum));
                sum = add(&field, &sum, &step);
            }
        }
    }

    /// With the prime and with the order: the unrolled multiplication gives what
    /// the one for any length does, and the inverse what Fermat's theorem says.
    pub(crate) fn arithmetic<const N: usize>(curve: &Curve<N>, a: [u64; N], b: [u64; N]) {
        for n in [curve.p, curve.n] {
            let modulus = Modulus::new(n).unwrap();
            let any = Modulus::new(n.to_vec()).unwrap();
            let mut highest = n;
            highest[0] -= 1;
            let [a, b] = [a, b].map(|value| modulus.reduce(value, false));
            for (a, b) in [
                (a, b),
                (a, a),
                (highest, b),
                (a, highest),
                (highest, highest),
            ] {
                let product = modulus.mul(&a, &b);
                assert!(modulus.holds(&product));
                assert_eq!(product[..], any.mul(&a.to_vec(), &b.to_vec()));
            }

            let mut exponent = n;
            exponent[0] -= 2;
            for value in [a, b, highest].into_iter().filter(|value| !is_zero(value)) {
                let power = modulus.pow(&modulus.enter(&value), &exponent);
                assert_eq!(modulus.inverse(&value), Some(modulus.leave(&power)));
            }
            assert_eq!(modulus.inverse(&[0; N]), None);
        }
    }
}
