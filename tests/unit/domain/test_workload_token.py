from __future__ import annotations

import pytest

from appliance.domain.errors import InvalidRequest
from appliance.domain.header_rules import Transform
from appliance.domain.private_rules import PrivateRules, check_private
from appliance.domain.workload_token import WantedToken, check_tokens

GOOD = WantedToken("sts.amazonaws.com", "JWT-SVID")


def test_five_named_tokens_are_fine() -> None:
    check_tokens({f"token {number}": GOOD for number in range(5)})


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ({str(number): GOOD for number in range(6)}, "iam.tokens: too many tokens: 6 (max 5)"),
        ({"": GOOD}, "iam.tokens: token name must not be empty"),
        *(
            ({name: GOOD}, "iam.tokens: token name must not contain '{', '}' or control characters")
            for name in ("a{", "a}", "a\n", "\x7f", "\x85")
        ),
        ({"a" * 257: GOOD}, "iam.tokens: token name has more than 256 characters"),
        ({"aws": WantedToken("", "JWT-SVID")}, "iam.tokens.aws.audience: audience is required"),
        (
            {"aws": WantedToken("a" * 2049, "JWT-SVID")},
            "iam.tokens.aws.audience: audience has more than 2048 characters",
        ),
        ({"aws": WantedToken("a", "X509-SVID")}, 'iam.tokens.aws.tokenType: only "JWT-SVID" is supported'),
    ],
)
def test_a_token_that_cannot_be_is_refused(tokens: dict[str, WantedToken], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_tokens(tokens)
    assert refused.value.message == message


def test_rules_name_tokens_that_the_sandbox_has() -> None:
    rules = PrivateRules({"a.com": (Transform({"X": "${e2b.identity.tokens.aws}"}),)})
    assert check_private(rules, tokens={"aws"}).tokens == ("aws",)
    with pytest.raises(InvalidRequest, match=r"the workload token 'aws', which is not in the sandbox's iam\.tokens"):
        check_private(rules, tokens={"AWS"})
