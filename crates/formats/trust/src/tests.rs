//! The arithmetic against 128-bit integers, the curves against their own laws.

use std::vec::Vec;

use proptest::prelude::*;

use crate::arith::{Modulus, bit_len, is_set, is_zero, read_be};
use crate::ec::{P256, P384, laws};

fn power(mut base: u64, exponent: u64, modulus: u64) -> u64 {
    let times = |a: u64, b: u64| {
        u64::try_from(u128::from(a) * u128::from(b) % u128::from(modulus)).unwrap()
    };
    let mut result = 1;
    base %= modulus;
    for bit in 0..64 {
        if exponent >> bit & 1 == 1 {
            result = times(result, base);
        }
        base = times(base, base);
    }
    result
}

proptest! {
    #[test]
    fn one_limb_agrees_with_128_bits(n: u64, a: u64, b: u64, e in 1..u64::MAX) {
        let n = n | 1;
        prop_assume!(n > 1);
        let (a, b) = (a % n, b % n);
        let modulus = Modulus::new([n]).unwrap();
        let wide = |value: u128| [u64::try_from(value % u128::from(n)).unwrap()];
        let product = modulus.mul(&modulus.enter(&[a]), &[b]);
        prop_assert_eq!(product, wide(u128::from(a) * u128::from(b)));
        prop_assert_eq!(modulus.leave(&modulus.enter(&[a])), [a]);
        prop_assert_eq!(modulus.add(&[a], &[b]), wide(u128::from(a) + u128::from(b)));
        prop_assert_eq!(
            modulus.sub(&[a], &[b]),
            wide(u128::from(a) + u128::from(n) - u128::from(b))
        );
        let raised = modulus.leave(&modulus.pow(&modulus.enter(&[a]), &[e]));
        prop_assert_eq!(raised, [power(a, e, n)]);
    }

    /// Leading zero limbs of a modulus change nothing.
    #[test]
    fn wider_limbs_agree(n: u64, a: u64, e in 1..u64::MAX) {
        let n = n | 1;
        prop_assume!(n > 1);
        let mut limbs: Vec<u64> = std::vec![0; 33];
        limbs[0] = n;
        let modulus = Modulus::new(limbs.clone()).unwrap();
        limbs[0] = a % n;
        let raised = modulus.leave(&modulus.pow(&modulus.enter(&limbs), &[e]));
        limbs[0] = power(a, e, n);
        prop_assert_eq!(raised, limbs);
    }

    #[test]
    fn bytes_and_bits(value: u64, zeros in 0..20usize) {
        let bytes = [&std::vec![0; zeros][..], &value.to_be_bytes()].concat();
        prop_assert_eq!(read_be(&bytes, [7, 7]), Some([value, 0]));
        prop_assert_eq!(bit_len(&[value, 0]), 64 - value.leading_zeros() as usize);
        prop_assert_eq!(is_set(&[0, value], 64), value % 2 == 1);
        prop_assert!(!is_set(&[value], 64));
    }

    #[test]
    fn arithmetic_of_the_curves(
        a: [u64; 6],
        b: [u64; 6],
        fill in prop::sample::select(&[None, Some(0), Some(u64::MAX)][..]),
        filled in 0..6usize,
    ) {
        // Half of the limbs at an extreme, for carries that chance never meets.
        let mut a = a;
        if let Some(fill) = fill {
            a[filled..].fill(fill);
        }
        laws::arithmetic(&P384, a, b);
        let low = |limbs: [u64; 6]| [limbs[0], limbs[1], limbs[2], limbs[3]];
        laws::arithmetic(&P256, low(a), low(b));
    }

    /// The digits give the scalar again, and are sparse.
    #[test]
    fn digits_of_a_scalar(scalar: [u64; 4], high in prop::sample::select(&[0, 1, u64::MAX][..])) {
        let scalar = [scalar[0], scalar[1], scalar[2], scalar[3] | high];
        laws::digits(&scalar);
    }
}

#[test]
fn what_is_no_modulus() {
    assert!(Modulus::new([0, 0]).is_none());
    assert!(Modulus::new([1, 0]).is_none());
    assert!(Modulus::new([2, 1]).is_none());
    assert!(Modulus::new([0, 1]).is_none());
    assert!(Modulus::new(Vec::new()).is_none());
    assert!(Modulus::new([1, 1]).is_some());
    assert!(Modulus::new([1, 0, 0, u64::MAX, u64::MAX, u64::MAX]).is_some());
    assert!(Modulus::new([1, 0, 0, u64::MAX - 1, u64::MAX, u64::MAX]).is_none());
    // 3 has no inverse modulo 9, nor has 9.
    let nine = Modulus::new([9, 0]).unwrap();
    assert_eq!(nine.inverse(&[2, 0]), Some([5, 0]));
    assert_eq!(nine.inverse(&[3, 0]), None);
    assert!(is_zero(&[0, 0]) && !is_zero(&[0, 1]));
    assert_eq!(read_be(&[1, 0, 0, 0, 0, 0, 0, 0, 0], [0]), None);
    assert_eq!(read_be(&[], [5]), Some([0]));
}

#[test]
fn the_curves_keep_their_laws() {
    laws::check(&P256);
    laws::check(&P384);
}
