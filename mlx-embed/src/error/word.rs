//! Options by their words, as files and command lines write them.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

/// A word that is none of an option's values. The message names those that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(String);

/// The value that serde calls by this word.
pub(crate) fn of_word<'a, T: Deserialize<'a>>(word: &'a str) -> Result<T, UnknownWord> {
    let words: StrDeserializer<'a, Error> = word.into_deserializer();
    T::deserialize(words).map_err(|error| UnknownWord(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::str::FromStr;

    use crate::{Device, Lane, MatmulPolicy, Precision};

    fn check<T: Copy + Debug + Display + FromStr + PartialEq + serde::Serialize>(all: &[T])
    where
        T::Err: Display + Debug,
    {
        for value in all {
            let word = value.to_string();
            assert_eq!(word.parse::<T>().expect("its own word"), *value);
            assert_eq!(serde_json::to_string(value).expect("JSON"), format!("{word:?}"));
        }
        let Err(error) = "nothing".parse::<T>() else { panic!("it is no word") };
        let error = error.to_string();
        assert!(all.iter().all(|value| error.contains(&value.to_string())), "{error}");
    }

    #[test]
    fn options_are_read_as_they_are_written() {
        check(Device::ALL);
        check(Precision::ALL);
        check(MatmulPolicy::ALL);
        check(Lane::ALL);
    }
}
