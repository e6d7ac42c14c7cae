/* Steps of the row engine that more than one of its files needs; mj_row_engine.h is the contract. */
#ifndef MJ_ROW_STEPS_H
#define MJ_ROW_STEPS_H

#include "mj_gather.h"
#include "mj_row_engine.h"

#include <stddef.h>

#define MJ_SMALL static __attribute__((noinline, unused)) void

static inline uint32_t twice(int32_t value)
{
    return (uint32_t)(uint16_t)value * 0x10001u;
}

MJ_SMALL fill(mj_word *words, int32_t count, uint32_t word)
{
    for (int32_t i = 0; i < count; ++i) {
        words[i] = word;
    }
}

static inline uint32_t *plane_word(const mj_rows *r, int32_t channel, int32_t column, int32_t slot)
{
    uint8_t *plane = (uint8_t *)r->planes + channel * r->plane;
    return (uint32_t *)(void *)plane + (column >> 1) * r->filter->height + slot;
}

/* The windows of `pixels` outputs of row oy from column ox on, as groups: for each kernel row its numbers in order,
 * filled up to an even count. */
MJ_SMALL collect(const mj_rows *r, int32_t oy, int32_t ox, int32_t pixels)
{
    const mj_window *w = r->window;
    const int32_t words = (w->kernel_width * w->in_channels + 1) / 2, depth = words * w->kernel_height;
    const int32_t step = w->stride_width * w->in_channels;
    int32_t slot = oy * w->stride_height - w->pad_top;
    slot = slot < 0 ? slot + r->widened_rows : slot % r->widened_rows;
    for (int32_t ky = 0; ky < w->kernel_height; ++ky) {
        const int16_t *from = r->widened + slot * r->widened_row + ox * step;
        mj_gather_windows(from, pixels, words, step, r->conv_groups + 4 * words * ky, 4 * depth);
        slot = slot + 1 == r->widened_rows ? 0 : slot + 1;
    }
}

/* Columns of planes become padding. */
MJ_SMALL blank(const mj_rows *r, int32_t slot, int32_t column, int32_t end, int32_t channels, int32_t zero)
{
    MJ_ROLLED
    for (; column < end; ++column) {
        uint8_t *place = (uint8_t *)plane_word(r, 0, column, slot) + 2 * (column & 1);
        MJ_ROLLED
        for (int32_t c = 0; c < channels; ++c, place += r->plane) {
            *(int16_t *)(void *)place = (int16_t)zero;
        }
    }
}

/* The columns behind the picture that a product wrote as part of its last group are padding again. */
static inline void mend(const mj_rows *r, int32_t slot, int32_t channels, int32_t zero)
{
    blank(r, slot, r->lead + r->made_width, r->lead + (r->made_width + 3) / 4 * 4, channels, zero);
}

/* The weights of `count` pairs of channels from pair `first` on to RAM. */
MJ_SMALL fetch(const mj_products *p, int32_t first, int32_t count, uint32_t *place)
{
    if (p->unpack != NULL) {
        p->unpack(p->weights + first * mj_packed_words(p->depth), place, count, p->depth, p->up);
    } else {
        __builtin_memcpy(place, p->weights + first * p->depth, 4u * (uint32_t)(count * p->depth));
    }
}

/* `count` channels of a convolution from channel `first` on, which is even. */
static inline void multiply(const mj_products *p, int32_t first, int32_t count, const uint32_t *groups, int32_t pixels, void *out,
                     int32_t distance, int32_t step)
{
    mj_product part = {groups, NULL, NULL, out, pixels, p->depth, 0, distance, step, twice(p->low), twice(p->high)};
    const int32_t end = (first + count + 1) / 2; /* pairs of channels */
    for (int32_t done = first / 2; done < end; done += part.count) {
        part.pairs = p->pairs + done;
        part.count = end - done;
        if (done < p->held) {
            part.count = end < p->held ? part.count : p->held - done;
            part.weights = p->place + done * p->depth;
        } else if (p->tile != 0) {
            part.count = part.count < p->tile ? part.count : p->tile;
            fetch(p, done, part.count, p->tiles);
            part.weights = p->tiles;
        } else {
            part.weights = p->weights + done * p->depth;
        }
        p->product(&part);
        part.out = (uint8_t *)part.out + 2 * part.count * (step != 0 ? distance : 1);
    }
}

#endif
