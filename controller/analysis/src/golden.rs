//! Comparison with the golden vectors, which have nine significant digits.

/// Fails unless the value rounds to the expected one at its ninth significant digit.
pub(crate) fn assert_nine_digits(actual: f64, expected: f64) {
    let unit = 10_f64.powf(expected.abs().log10().floor() - 8.0);
    assert!(
        (actual - expected).abs() <= 0.500_001 * unit,
        "{actual} is not {expected} to nine digits"
    );
}

#[test]
fn the_ninth_digit_counts_and_the_tenth_does_not() {
    assert_nine_digits(3.482_424_794, 3.482_424_79);
    assert!(std::panic::catch_unwind(|| assert_nine_digits(3.482_424_80, 3.482_424_79)).is_err());
    assert!(
        std::panic::catch_unwind(|| assert_nine_digits(5.649_678_91e-5, 5.649_678_9e-5)).is_err()
    );
}
