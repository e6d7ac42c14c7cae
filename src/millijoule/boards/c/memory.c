/* The four functions a compiler may call on its own. Words where both sides are aligned, bytes otherwise. */
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *restrict target, const void *restrict source, size_t count);
void *memmove(void *target, const void *source, size_t count);
void *memset(void *target, int value, size_t count);
int memcmp(const void *left, const void *right, size_t count);

/* Words that may alias anything: the caller's objects have other types. */
typedef uint32_t __attribute__((may_alias)) word;
typedef struct __attribute__((may_alias)) {
    uint32_t words[4];
} four_words; /* one LDM and one STM, with debug information and without */

__attribute__((used)) void *memcpy(void *restrict target, const void *restrict source, size_t count)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if ((((uintptr_t)to | (uintptr_t)from) & 3u) == 0) {
        for (; count >= 16; count -= 16, to += 16, from += 16) {
            *(four_words *)(void *)to = *(const four_words *)(const void *)from;
        }
        for (; count >= 4; count -= 4, to += 4, from += 4) {
            *(word *)to = *(const word *)from;
        }
    }
    while (count-- > 0) {
        *to++ = *from++;
    }
    return target;
}

__attribute__((used)) void *memmove(void *target, const void *source, size_t count)
{
    uint8_t *to = target;
    const uint8_t *from = source;
    if ((uintptr_t)to - (uintptr_t)from >= count) {
        return memcpy(target, source, count); /* forwards is safe */
    }
    while (count-- > 0) {
        to[count] = from[count];
    }
    return target;
}

__attribute__((used)) void *memset(void *target, int value, size_t count)
{
    uint8_t *to = target;
    if (((uintptr_t)to & 3u) == 0) {
        const word four = (uint8_t)value * 0x01010101u;
        for (; count >= 16; count -= 16, to += 16) {
            ((word *)to)[0] = four;
            ((word *)to)[1] = four;
            ((word *)to)[2] = four;
            ((word *)to)[3] = four;
        }
    }
    while (count-- > 0) {
        *to++ = (uint8_t)value;
    }
    return target;
}

__attribute__((used)) int memcmp(const void *left, const void *right, size_t count)
{
    const uint8_t *a = left, *b = right;
    for (; count > 0; count--, a++, b++) {
        if (*a != *b) {
            return (int)*a - (int)*b;
        }
    }
    return 0;
}
