from app.page_cache import PageCache


def test_a_page_is_found_until_it_is_replaced_or_dropped() -> None:
    cache = PageCache[int](10_000)
    cache.put("a", 1, 3)
    cache.put("a", 2, 3)
    assert cache.get("a") == 2
    cache.drop("a")
    cache.drop("a")
    assert cache.get("a") is None


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = PageCache[int](10_000)
    for name in "abc":
        cache.put(name, 1, 2_000)
    assert cache.get("a")
    cache.put("d", 1, 2_000)
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]


def test_what_is_larger_than_all_is_not_kept() -> None:
    cache = PageCache[int](10_000)
    cache.put("a", 1, 20_000)
    assert cache.get("a") is None
    cache.put("b", 1, 1)
    assert cache.get("b") == 1


def test_pages_of_nothing_are_bounded_too() -> None:
    cache = PageCache[int](10_000)
    for number in range(100):
        cache.put(number, 1, 0)
    assert sum(cache.get(number) is not None for number in range(100)) < 20


def test_nothing_is_kept_where_nothing_may_be() -> None:
    cache = PageCache[int](0)
    cache.put("a", 1, 0)
    assert cache.get("a") is None
