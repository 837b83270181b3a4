//! Arithmetic in log space.

/// `ln(exp(a) + exp(b))`, exact at minus infinity.
pub(crate) fn ln_add_exp(a: f64, b: f64) -> f64 {
    let (high, low) = if a >= b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY {
        high
    } else {
        high + (low - high).exp().ln_1p()
    }
}

/// `ln(sum(exp(x)))`, minus infinity for an empty sum.
pub(crate) fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY {
        return highest;
    }
    highest
        + values
            .map(|value| (value - highest).exp())
            .sum::<f64>()
            .ln()
}

/// JSON has no infinities: minus infinity, the logarithm of an unfunded bet, is written as null.
pub(crate) mod ln_values {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        values: &[f64],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(
            values
                .iter()
                .map(|value| value.is_finite().then_some(*value)),
        )
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(deserializer)?;
        Ok(values
            .into_iter()
            .map(|value| value.unwrap_or(f64::NEG_INFINITY))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_nothing_are_minus_infinity() {
        assert_eq!(log_sum_exp([].into_iter()), f64::NEG_INFINITY);
        assert_eq!(
            ln_add_exp(f64::NEG_INFINITY, f64::NEG_INFINITY),
            f64::NEG_INFINITY
        );
        assert_eq!(ln_add_exp(f64::NEG_INFINITY, 3.0), 3.0);
    }

    #[test]
    fn sums_survive_magnitudes_that_overflow() {
        assert!((ln_add_exp(1e4, 1e4) - (1e4 + 2_f64.ln())).abs() < 1e-9);
        assert!((log_sum_exp([1e4, 1e4].into_iter()) - (1e4 + 2_f64.ln())).abs() < 1e-9);
    }
}
