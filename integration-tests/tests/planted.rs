//! Does the suite notice? Each row must fail on a driver with the defect that it is listed with.

use mq_integration_tests::suite;

#[tokio::test(flavor = "multi_thread")]
async fn each_row_notices_the_defect_it_is_listed_with() {
    let unnoticed = suite::unnoticed().await;
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}
