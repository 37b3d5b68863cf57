//! [`Strict`]: a struct is read from an object with its fields by name, and from nothing else.
//!
//! # How this works
//! What `#[derive(Deserialize)]` makes for a struct also takes an array, with the fields by their
//! order. So `[40.75, -73.97]` is a position, and so is `[-73.97, 40.75]` from somebody who writes
//! the longitude first, as GeoJSON does. Our documents say *object*, at every depth.
//!
//! ```text
//!  T ◀──visit── Strict(visitor) ◀──visit── format
//!                  │ a map: its values are strict, too
//!                  ✗ an array, where T asked for a struct
//! ```
//!
//! `Strict` stands between a format and the type, passes all calls on, and refuses this one. There
//! is no second pass and no copy.

use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

/// A `T` whose structs, at every depth, were objects.
#[derive(Clone, Copy, Debug)]
pub struct Strict<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(format: D) -> Result<Self, D::Error> {
        T::deserialize(Strict(format)).map(Self)
    }
}

/// The methods whose visitor sees nothing that contains something else.
macro_rules! pass_scalars_on {
    ($($method:ident)+) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        }
    )+ };
}

/// The others, with their arguments.
macro_rules! pass_containers_on {
    ($($method:ident($($name:ident: $type:ty),*))+) => { $(
        fn $method<V: Visitor<'de>>(
            self,
            $($name: $type,)*
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            self.0.$method($($name,)* Inner { visitor, is_struct: false })
        }
    )+ };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    pass_scalars_on! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char deserialize_str
        deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier deserialize_ignored_any
    }

    pass_containers_on! {
        deserialize_any()
        deserialize_option()
        deserialize_seq()
        deserialize_map()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let is_struct = true;
        self.0
            .deserialize_struct(name, fields, Inner { visitor, is_struct })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// The visitor of a value that may contain others.
struct Inner<V> {
    visitor: V,
    is_struct: bool,
}

macro_rules! visit_scalars {
    ($($method:ident($type:ty))+) => { $(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )+ };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Inner<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit_scalars! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128)
        visit_f64(f64) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, format: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict(format))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, format: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict(format))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        if self.is_struct {
            return Err(A::Error::invalid_type(Unexpected::Seq, &"an object"));
        }
        self.visitor.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Strict(fields))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(Strict(variant))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, format: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(format))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (name, content) = self.0.variant_seed(seed)?;
        Ok((name, Strict(content)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        let is_struct = false;
        self.0.tuple_variant(len, Inner { visitor, is_struct })
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let is_struct = true;
        self.0.struct_variant(fields, Inner { visitor, is_struct })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Point {
        lat: f64,
        lon: f64,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Trip {
        from: Point,
        #[serde(default)]
        via: Vec<Option<Point>>,
        wish: Option<Wish>,
        seats: (u8, u8),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    enum Wish {
        Quiet,
        Stop { at: Point },
        Window(Point),
    }

    fn read(json: &str) -> Result<Trip, String> {
        let read = serde_json::from_str::<Strict<Trip>>(json);
        read.map(|Strict(trip)| trip)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn objects_are_read_at_every_depth() {
        let point = r#"{"lat":1,"lon":2}"#;
        for wish in [r#""Quiet""#, &format!(r#"{{"Window":{point}}}"#), "null"] {
            let json =
                format!(r#"{{"from":{point},"via":[{point},null],"wish":{wish},"seats":[1,2]}}"#);
            let expected: Trip = serde_json::from_str(&json).unwrap();
            assert_eq!(read(&json), Ok(expected));
        }
    }

    #[test]
    fn arrays_for_objects_are_refused_everywhere() {
        let point = r#"{"lat":1,"lon":2}"#;
        let good = format!(r#"{{"from":{point},"via":[{point}],"wish":null,"seats":[1,2]}}"#);
        assert!(read(&good).is_ok());
        for wrong in [
            format!("[{point},[],null,[1,2]]"),
            good.replacen(point, "[1,2]", 1),
            good.replace(&format!("[{point}]"), "[[1,2]]"),
            good.replace("null", r#"{"Window":[1,2]}"#),
            good.replace("null", &format!(r#"{{"Stop":[{point}]}}"#)),
            good.replace("null", r#"{"Stop":{"at":[1,2]}}"#),
        ] {
            assert!(serde_json::from_str::<Trip>(&wrong).is_ok(), "{wrong}");
            let refused = read(&wrong).unwrap_err();
            let expected = "invalid type: sequence, expected an object";
            assert!(refused.starts_with(expected), "{wrong}: {refused}");
        }
    }
}
