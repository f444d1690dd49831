from app.page_cache import PageCache


def test_a_page_is_found_with_its_version_until_it_is_replaced_or_dropped() -> None:
    cache = PageCache[int](10_000)
    cache.put("a", 1, b"one")
    cache.put("a", 2, b"two")
    assert cache.get("a") == (2, b"two")
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PageCache[int](10_000)
    for name in "abc":
        cache.put(name, 1, b"x" * 2_000)
    assert cache.get("a")
    cache.put("d", 1, b"x" * 2_000)
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = PageCache[int](10_000)
    cache.put("a", 1, b"x" * 20_000)
    assert cache.get("a") is None
    cache.put("b", 1, b"x")
    assert cache.get("b") == (1, b"x")


def test_pages_of_nothing_are_bounded_too() -> None:
    cache = PageCache[int](10_000)
    for number in range(100):
        cache.put(number, 1, b"")
    assert sum(cache.get(number) is not None for number in range(100)) < 20


def test_nothing_is_kept_where_nothing_may_be() -> None:
    cache = PageCache[int](0)
    cache.put("a", 1, b"")
    assert cache.get("a") is None
