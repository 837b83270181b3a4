use super::*;
use crate::prometheus::Series;

#[test]
fn only_bounds_of_all_native_histograms_are_used() {
    let series = |pod: &str, le: Option<&str>| {
        let labels = [("pod", Some(pod)), ("le", le)];
        let labels = labels
            .iter()
            .filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned())));
        Series {
            labels: labels.collect(),
            samples: vec![(0, 1.0)],
        }
    };
    let classic = || vec![series("a", Some("0.3")), series("b", Some("0.3"))];
    assert!(
        native_edges(&classic()).is_empty(),
        "of a classic one only the threshold's bucket is read"
    );
    let mut native = vec![
        series("a", None),
        series("a", Some("0.25")),
        series("a", Some("0.5")),
        series("b", None),
    ];
    native.push(series("b", Some("0.25")));
    assert_eq!(
        native_edges(&native),
        [0.25],
        "0.5 is inside of a bucket of b"
    );
    native.extend(classic());
    assert_eq!(
        native_edges(&native),
        [0.25, 0.3],
        "both forms are there, and 0.3 is counted by the classic one"
    );
}
