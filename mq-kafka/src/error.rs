//! What librdkafka's errors mean here.

use mq_core::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Turns an error of the native client into one of ours.
pub(crate) fn from_native(error: &KafkaError) -> Error {
    let kind = match error {
        KafkaError::ClientConfig(_, what, key, _) => {
            // The value may be a secret.
            return Error::new(ErrorKind::InvalidInput, format!("setting {key} is not accepted: {what}"));
        }
        KafkaError::AdminOp(code) => kind(*code),
        KafkaError::ClientCreation(_) | KafkaError::Nul(_) => ErrorKind::InvalidInput,
        KafkaError::Canceled => ErrorKind::Closed,
        _ => error.rdkafka_error_code().map_or(ErrorKind::Other, kind),
    };
    Error::new(kind, error.to_string())
}

/// Turns an error code into one of our errors.
pub(crate) fn from_code(code: Code) -> Error {
    Error::new(kind(code), code.to_string())
}

/// The verdict on a message that the native client reports as failed. Only what the broker says
/// before it appends, or what never left this process, is a definite failure.
pub(crate) fn from_delivery(code: Code) -> Error {
    let kind = match code {
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::MessageBatchTooLarge
        | Code::InvalidRecord
        | Code::InvalidTimestamp
        | Code::InvalidRequiredAcks
        | Code::UnsupportedForMessageFormat
        | Code::UnsupportedCompressionType
        | Code::PolicyViolation
        | Code::BadCompression
        | Code::InvalidArgument => ErrorKind::Rejected,
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => ErrorKind::NotFound,
        Code::InvalidTopic => ErrorKind::InvalidInput,
        // The first is never of the native client: it says of what it has in hand that `Authentication` failed, and
        // that may be stored.
        Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed => ErrorKind::Unauthorized,
        _ => ErrorKind::UnknownOutcome,
    };
    Error::new(kind, code.to_string())
}

fn kind(code: Code) -> ErrorKind {
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed
        | Code::SecurityDisabled
        | Code::IllegalSASLState => ErrorKind::Unauthorized,
        Code::BrokerTransportFailure
        | Code::Resolve
        | Code::AllBrokersDown
        | Code::SSL
        | Code::BrokerDestroy
        | Code::WaitingForCoordinator
        | Code::WaitCache
        | Code::NodeUpdate
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        // A broker that was away knows another leader, or none yet, than the client does.
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::OffsetNotAvailable
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotController
        | Code::NotEnoughReplicas
        | Code::NotEnoughReplicasAfterAppend
        | Code::RebalanceInProgress
        | Code::KafkaStorageError
        | Code::UnstableOffsetCommit
        | Code::ThrottlingQuotaExceeded
        | Code::InvalidReplicationFactor
        | Code::Retry => ErrorKind::Unavailable,
        Code::MessageTimedOut | Code::OperationTimedOut | Code::TimedOutQueue | Code::RequestTimedOut => {
            ErrorKind::Timeout
        }
        Code::UnknownPartition
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownGroup
        | Code::GroupIdNotFound
        | Code::ResourceNotFound
        | Code::NoEnt => ErrorKind::NotFound,
        Code::InvalidArgument
        | Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidConfig
        | Code::InvalidRequest
        | Code::InvalidGroupId
        | Code::InvalidSessionTimeout
        | Code::PolicyViolation
        | Code::NotConfigured
        | Code::InvalidType => ErrorKind::InvalidInput,
        Code::TopicAlreadyExists
        | Code::InconsistentGroupProtocol
        | Code::Inconsistent
        | Code::NonEmptyGroup => ErrorKind::Mismatch,
        Code::NotImplemented
        | Code::UnsupportedFeature
        | Code::UnsupportedVersion
        | Code::UnsupportedSASLMechanism
        | Code::UnsupportedForMessageFormat => ErrorKind::Unsupported,
        Code::UnknownMemberId
        | Code::IllegalGeneration
        | Code::AssignmentLost
        | Code::Fenced
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch => ErrorKind::StaleDelivery,
        Code::QueueFull => ErrorKind::Full,
        Code::MessageSizeTooLarge
        | Code::MessageBatchTooLarge
        | Code::InvalidMessage
        | Code::InvalidMessageSize
        | Code::InvalidRecord => ErrorKind::Rejected,
        _ => ErrorKind::Other,
    }
}

/// Whether time can't heal it: credentials or permission.
pub(crate) fn is_permanent(code: Code) -> bool {
    kind(code) == ErrorKind::Unauthorized
        || matches!(code, Code::InconsistentGroupProtocol | Code::InvalidGroupId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_delivery_is_definite_only_where_it_is() {
        for (code, expected) in [
            (Code::MessageSizeTooLarge, ErrorKind::Rejected),
            (Code::MessageBatchTooLarge, ErrorKind::Rejected),
            (Code::InvalidRecord, ErrorKind::Rejected),
            (Code::InvalidMessage, ErrorKind::UnknownOutcome),
            (Code::InvalidMessageSize, ErrorKind::Rejected),
            (Code::InvalidTimestamp, ErrorKind::Rejected),
            (Code::NotEnoughReplicas, ErrorKind::UnknownOutcome),
            (Code::PolicyViolation, ErrorKind::Rejected),
            (Code::PurgeQueue, ErrorKind::UnknownOutcome),
            (Code::UnknownTopic, ErrorKind::NotFound),
            (Code::UnknownPartition, ErrorKind::NotFound),
            (Code::UnknownTopicOrPartition, ErrorKind::NotFound),
            (Code::InvalidTopic, ErrorKind::InvalidInput),
            (Code::TopicAuthorizationFailed, ErrorKind::Unauthorized),
            (Code::Authentication, ErrorKind::UnknownOutcome),
            (Code::MessageTimedOut, ErrorKind::UnknownOutcome),
            (Code::RequestTimedOut, ErrorKind::UnknownOutcome),
            (Code::NotLeaderForPartition, ErrorKind::UnknownOutcome),
            (Code::NotEnoughReplicasAfterAppend, ErrorKind::UnknownOutcome),
            (Code::BrokerTransportFailure, ErrorKind::UnknownOutcome),
            (Code::PurgeInflight, ErrorKind::UnknownOutcome),
            (Code::Fatal, ErrorKind::UnknownOutcome),
        ] {
            assert_eq!(from_delivery(code).kind(), expected, "{code:?}");
        }
    }

    #[test]
    fn codes_have_kinds() {
        for (code, expected) in [
            (Code::Authentication, ErrorKind::Unauthorized),
            (Code::SaslAuthenticationFailed, ErrorKind::Unauthorized),
            (Code::GroupAuthorizationFailed, ErrorKind::Unauthorized),
            (Code::BrokerTransportFailure, ErrorKind::Unavailable),
            (Code::Resolve, ErrorKind::Unavailable),
            (Code::AllBrokersDown, ErrorKind::Unavailable),
            (Code::RebalanceInProgress, ErrorKind::Unavailable),
            (Code::OperationTimedOut, ErrorKind::Timeout),
            (Code::RequestTimedOut, ErrorKind::Timeout),
            (Code::UnknownTopicOrPartition, ErrorKind::NotFound),
            (Code::GroupIdNotFound, ErrorKind::NotFound),
            (Code::InvalidTopic, ErrorKind::InvalidInput),
            (Code::InvalidSessionTimeout, ErrorKind::InvalidInput),
            (Code::TopicAlreadyExists, ErrorKind::Mismatch),
            (Code::InconsistentGroupProtocol, ErrorKind::Mismatch),
            (Code::UnsupportedVersion, ErrorKind::Unsupported),
            (Code::UnknownMemberId, ErrorKind::StaleDelivery),
            (Code::IllegalGeneration, ErrorKind::StaleDelivery),
            (Code::QueueFull, ErrorKind::Full),
            (Code::MessageSizeTooLarge, ErrorKind::Rejected),
            (Code::Unknown, ErrorKind::Other),
        ] {
            assert_eq!(from_code(code).kind(), expected, "{code:?}");
        }
    }

    #[test]
    fn wrappers_keep_the_code_and_hide_values() {
        assert_eq!(from_native(&KafkaError::AdminOp(Code::InvalidTopic)).kind(), ErrorKind::InvalidInput);
        assert_eq!(from_native(&KafkaError::MetadataFetch(Code::Resolve)).kind(), ErrorKind::Unavailable);
        assert_eq!(from_native(&KafkaError::Canceled).kind(), ErrorKind::Closed);
        assert_eq!(from_native(&KafkaError::NoMessageReceived).kind(), ErrorKind::Other);
        let config = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "invalid".into(),
            "sasl.password".into(),
            "canary".into(),
        );
        assert!(!from_native(&config).to_string().contains("canary"));
    }
}
