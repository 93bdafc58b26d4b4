//! What is no handler does not compile, and the compiler says why in one sentence.

#[test]
fn wrong_handlers_are_told_what_is_wrong() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
